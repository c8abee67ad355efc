/* See LICENSE file for copyright and license details. */
/*
 * Confinement: what a helper that serves may still do, should somebody take it
 * over. The system calls of two tables (seccomp), the files of a third one
 * (Landlock), and nothing that shows its memory. What the kernel does not have
 * is told at -v, and is no reason not to serve.
 *
 * What is missing here? A call gets EPERM and is said once, by its number; its
 * name is in asm/unistd_64.h, and `strace -f` shows it before a SIGSYS. A file
 * gets EACCES, which is not said here: `strace -f -Z -e %file`.
 */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/dm-ioctl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <scsi/sg.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "prhelper.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1 /* it does much else, and writes its reports somewhere */
#else
#define SANITIZED 0
#endif

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Access to files. ABI 3 can refuse to truncate, which nothing here does. */
enum {
	READ = LANDLOCK_ACCESS_FS_READ_FILE,
	WRITE = LANDLOCK_ACCESS_FS_WRITE_FILE,
	MAKE = LANDLOCK_ACCESS_FS_MAKE_REG,
	REMOVE = LANDLOCK_ACCESS_FS_REMOVE_FILE,
	REMOVE_DIR = LANDLOCK_ACCESS_FS_REMOVE_DIR,
	ABI1 = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1,
	TRUNCATE = 1 << 14,
};

/* What was refused: number plus 1, and in the lower half an argument. */
static _Atomic uint64_t refusals[16];

/*
 * The system calls are those of the processors where it was tried, with musl
 * and with glibc.
 */
#if defined(__x86_64__) && defined(__LP64__)

#define ARCH AUDIT_ARCH_X86_64
#define RESULT(uc) ((uc)->uc_mcontext.gregs[REG_RAX])
#define SECOND(uc) ((uc)->uc_mcontext.gregs[REG_RSI])

#define REFUSE SECCOMP_RET_TRAP
#define ALLOW SECCOMP_RET_ALLOW
#define MISSING (SECCOMP_RET_ERRNO | ENOSYS)
#define MUTE (SECCOMP_RET_ERRNO | EPERM)

/* Of the filter: load a part of the call; skip unless it is that; return. */
#define LOAD(offset) STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offset))
#define AND(mask) STMT(BPF_ALU | BPF_AND | BPF_K, mask)
#define UNLESS(value, skip) \
	(struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define RETURN(verdict) STMT(BPF_RET | BPF_K, verdict)
#define STMT(code, k) (struct sock_filter) BPF_STMT(code, k)
#define NUMBER offsetof(struct seccomp_data, nr)
#define LOWER (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0)
#define ALL 0xffffffff
#define THREAD \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | \
	    CLONE_THREAD | CLONE_SETTLS | CLONE_PARENT_SETTID | \
	    CLONE_CHILD_CLEARTID)

/*
 * If these bits of an argument, from 0, are so: the verdict. The first one
 * that fits counts. Only the lower half of an argument is looked at, which is
 * all that the kernel looks at, too: libc may have extended the sign.
 */
/* clang-format off */
static const struct {
	uint16_t call;
	uint8_t arg;
	uint32_t mask, value, verdict;
} checked[] = {
	{ SYS_ioctl,	1, ALL, SG_IO, ALLOW },
	{ SYS_ioctl,	1, ALL, FIONREAD, ALLOW },
	{ SYS_ioctl,	1, ALL, DM_TABLE_STATUS, ALLOW },
	{ SYS_ioctl,	1, ALL, DM_TARGET_MSG, ALLOW },
	{ SYS_ioctl,	1, ALL, DM_DEV_ARM_POLL, ALLOW },
	{ SYS_socket,	0, ALL, AF_UNIX, ALLOW },	/* syslog, notify */
	{ SYS_fcntl,	1, ALL, F_GETFL, ALLOW },
	{ SYS_fcntl,	1, ALL, F_SETFD, ALLOW },	/* musl's O_CLOEXEC */
	{ SYS_fcntl,	1, ALL, F_OFD_SETLK, ALLOW },
	/* threads, no processes; flags of clone3 are out of sight */
	{ SYS_clone,	0, ALL & ~CLONE_DETACHED, THREAD, ALLOW },
	{ SYS_clone3,	0, 0, 0, MISSING },
	/* libc blocks all signals around these: SIGSYS would kill */
	{ SYS_clone,	0, 0, 0, MUTE },
	{ SYS_fork,	0, 0, 0, MUTE },
	{ SYS_tkill,	0, 0, 0, MUTE },
	{ SYS_tgkill,	0, 0, 0, MUTE },
	/* memory, no code; no file: those of sysfs are devices' registers */
	{ SYS_mmap,	2, PROT_EXEC, PROT_EXEC, REFUSE },
	{ SYS_mmap,	3, MAP_ANONYMOUS, MAP_ANONYMOUS, ALLOW },
	{ SYS_mprotect,	2, PROT_EXEC, 0, ALLOW },
};

static const uint16_t calls[] = {
	/* a request */
	SYS_poll, SYS_read, SYS_write, SYS_futex, SYS_close, SYS_fstat,
	SYS_newfstatat, SYS_recvmsg, SYS_sendmsg, SYS_sendto,
	/* a connection */
	SYS_accept4, SYS_getsockopt, SYS_setsockopt, SYS_shutdown,
	/* paths, and what is remembered */
	SYS_open, SYS_openat, SYS_access, SYS_readlink, SYS_renameat,
	SYS_unlinkat, SYS_getdents64, SYS_lseek, SYS_dup,
	/* threads, memory, time */
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_set_robust_list,
	SYS_rseq, SYS_sched_getaffinity, SYS_rt_sigaction, SYS_rt_sigprocmask,
	SYS_clock_gettime, SYS_clock_nanosleep, SYS_getpid, SYS_exit,
	/* a signal: SIGSYS of ours, SIGSTOP and SIGCONT of somebody */
	SYS_rt_sigreturn, SYS_restart_syscall,
	/* -d, and the end */
	SYS_setsid, SYS_chdir, SYS_dup2, SYS_unlink, SYS_rmdir, SYS_exit_group,
};
/* clang-format on */

static int wake = -1; /* the eventfd */

/* SIGSYS, in the thread that made the call. Somebody else has to say it. */
static void
refused(int sig, siginfo_t *info, void *context)
{
	static const uint64_t one = 1;
	ucontext_t *uc = context;
	uint64_t call, was = 1;
	size_t i;
	int saved = errno;

	(void)sig;
	if (info->si_code <= 0)
		return; /* somebody sent it */
	call = ((uint32_t)info->si_syscall + (uint64_t)1) << 32 |
	    (uint32_t)SECOND(uc);
	for (i = 0; was && was >> 32 != call >> 32 && i < LEN(refusals); i++) {
		was = 0;
		atomic_compare_exchange_strong(&refusals[i], &was, call);
	}
	if (!was)
		(void)!write(wake, &one, sizeof(one));
	errno = saved;
	RESULT(uc) = -EPERM;
}

static void
confine_calls(int eventfd)
{
	const struct sigaction sa = { .sa_sigaction = refused,
		.sa_flags = SA_SIGINFO | SA_RESTART };
	struct sock_filter code[3 + 6 * LEN(checked) + 2 * LEN(calls) + 1];
	struct sock_filter *f = code;
	struct sock_fprog prog = { .len = LEN(code), .filter = code };
	sigset_t set;
	size_t i;

	wake = eventfd;
	/* Another architecture stays in the place of a number, and fits none */
	*f++ = LOAD(offsetof(struct seccomp_data, arch));
	*f++ = UNLESS(ARCH, 1);
	*f++ = LOAD(NUMBER);
	for (i = 0; i < LEN(checked); i++) {
		*f++ = UNLESS(checked[i].call, 5);
		*f++ = LOAD(offsetof(struct seccomp_data, args) +
		    sizeof(uint64_t) * checked[i].arg + LOWER);
		*f++ = AND(checked[i].mask);
		*f++ = UNLESS(checked[i].value, 1);
		*f++ = RETURN(checked[i].verdict);
		*f++ = LOAD(NUMBER);
	}
	for (i = 0; i < LEN(calls); i++) {
		*f++ = UNLESS(calls[i], 1);
		*f++ = RETURN(ALLOW);
	}
	*f = RETURN(REFUSE);
	/* Blocked, as it may be inherited, it would kill. */
	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	if (sigprocmask(SIG_UNBLOCK, &set, NULL) < 0 ||
	    sigaction(SIGSYS, &sa, NULL) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		say(LOG_VERBOSE, "system calls are not limited: seccomp:");
}

#else
static void
confine_calls(int eventfd)
{
	(void)eventfd;
	say(LOG_VERBOSE, "system calls are not limited on this processor");
}
#endif

void
confine_report(void)
{
	static size_t i;
	uint64_t call;

	for (; i < LEN(refusals) && (call = atomic_load(&refusals[i])); i++)
		warn("system call %u (second argument %#x) was refused",
		    (unsigned int)(call >> 32) - 1, (unsigned int)call);
}

/* Below a directory this may be done from now on; without one, nothing. */
static void
allow_below(int rules, int dir, uint64_t access)
{
	const struct landlock_path_beneath_attr a = { .allowed_access = access,
		.parent_fd = dir };

	syscall(
	    SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &a, 0);
}

/* The same by its name, or that of something in it. */
static void
allow(int rules, const char *path, int parent, uint64_t access)
{
	char name[PATH_MAX];
	int fd;

	if (!path || !path[0])
		return;
	snprintf(name, sizeof(name), "%s", path);
	if (parent)
		strrchr(name, '/')[1] = '\0';
	/* What is not there, or no directory, is not used either. */
	fd = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	allow_below(rules, fd, access);
	if (fd >= 0)
		close(fd);
}

static void
confine_files(int state, const char *sock, const char *pidfile)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = ABI1 };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0,
	    LANDLOCK_CREATE_RULESET_VERSION);
	int rules = -1;

	if (abi >= 3)
		attr.handled_access_fs |= TRUNCATE;
	if (abi > 0)
		rules = (int)syscall(
		    SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (rules >= 0) {
		allow(rules, "/dev/", 0, READ);
		allow(rules, "/dev/null", 0, WRITE); /* -d */
		allow(rules, "/sys/", 0, READ);
		allow(rules, "/sys/devices/", 0, WRITE); /* path_rescan() */
		/* Its name may lead where only root may go, who we were. */
		allow_below(rules, state, READ | WRITE | MAKE | REMOVE);
		/* when it ends */
		allow(rules, sock, 1, REMOVE | REMOVE_DIR);
		allow(rules, pidfile, 1, REMOVE);
	}
	if (rules < 0 || syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		say(LOG_VERBOSE, "files are not limited: Landlock:");
	if (rules >= 0)
		close(rules);
}

void
confine(int eventfd, int state, const char *sock, const char *pidfile)
{
	static const struct rlimit none;

	if (SANITIZED)
		return;
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		say(LOG_VERBOSE, "prctl PR_SET_DUMPABLE:");
	if (setrlimit(RLIMIT_CORE, &none) < 0)
		say(LOG_VERBOSE, "setrlimit RLIMIT_CORE:");
	confine_files(state, sock, pidfile);
	confine_calls(eventfd);
}
