/* See LICENSE file for copyright and license details. */
/*
 * confined: prhelper, as somebody has it who has taken over a worker of it.
 * Linked with prhelper's own objects and -Wl,--wrap=proto_check, see Makefile.
 *
 * A CDB 5e1fNN, which is no command that there is, is attempt NN. The answer is
 * 00 if it worked, else 02 b/00/EE with the errno in EE. All other commands
 * are served as ever.
 */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "../prhelper.h"

enum { ATTEMPT = 0x1f, X32 = 0x40000000 };

int __real_proto_check(const struct request *, struct reply *);
int __wrap_proto_check(const struct request *, struct reply *);

static int
opens(const char *path, int flags)
{
	return open(path, flags, 0600);
}

/* What path_rescan() opens, of the disk that came along. */
static int
opens_rescan(int fd)
{
	char path[64];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/device/rescan",
	    major(st.st_rdev), minor(st.st_rdev));
	return opens(path, O_WRONLY);
}

static int
maps(int prot, int flags, int fd)
{
	/* musl's mmap() would make ENOMEM of EPERM */
	return syscall(SYS_mmap, NULL, 4096, prot, flags, fd, 0) == -1 ? -1 : 0;
}

static int
execs(void)
{
	char *const argv[] = { "true", NULL };

	return execve("/bin/true", argv, argv + 1);
}

static int
forks(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid;
}

static int
attempt(int which, int fd)
{
	switch (which) {
	case 0x00: return (int)getpid();
	case 0x01: return opens("/dev/zero", O_RDONLY);
	case 0x02: return opens_rescan(fd);

	case 0x10: return opens("/etc/passwd", O_RDONLY);
	case 0x11: return opens("/proc/self/maps", O_RDONLY);
	case 0x12: return opens("new", O_WRONLY | O_CREAT);
	case 0x13: return opens("/dev/zero", O_WRONLY);
	case 0x14: return opens("/sys/kernel/rcu_expedited", O_WRONLY);
	case 0x15: return unlink("precious");

	case 0x20: return execs();
	case 0x21: return socket(AF_INET, SOCK_STREAM, 0);
	case 0x22: return (int)ptrace(PTRACE_TRACEME, 0, 0, 0);
	case 0x23: return mount("none", "/mnt", "tmpfs", 0, NULL);
	case 0x24: return ioctl(0, TIOCSTI, "x");
	case 0x25: return forks();
	case 0x26: return kill(getpid(), 0);
	case 0x27: return mprotect(&errno, 1, PROT_READ | PROT_EXEC);
	case 0x28: return maps(PROT_READ, MAP_SHARED, 0);
	case 0x29:
		return maps(PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	case 0x2a: return (int)syscall(X32 | SYS_getpid);
	case 0x2b: return (int)syscall(SYS_setuid, 0);
	case 0x2c: return fcntl(0, F_SETOWN, 1);
	default: errno = EINVAL; return -1;
	}
}

int
__wrap_proto_check(const struct request *rq, struct reply *rp)
{
	if (rq->cdb[0] != PR_IN || rq->cdb[1] != ATTEMPT)
		return __real_proto_check(rq, rp);
	if (attempt(rq->cdb[2], rq->fd) < 0)
		proto_sense(rp, 0x0b0000 | (uint32_t)errno);
	else
		proto_status(rp, GOOD);
	return -1;
}
