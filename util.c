/* See LICENSE file for copyright and license details. */
/*
 * Helpers without state but the verbosity and where messages go: log lines,
 * big-endian numbers, threads, pid files, READY=1. Nothing about SCSI.
 */
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

enum {
	LINE_SIZE = PATH_MAX + 256, /* a name, and what is wrong with it */
	MINUTE = 60000,             /* ms */
	WARNINGS = 30,              /* in that time */
};

int verbosity, die_status = 1;
static const char name[] = "prhelper: "; /* before what goes to stderr */
static int log_socket = -1;              /* -1: messages go to stderr */

/* Never waits, as libc's syslog() would. */
static void
send_to_syslog(int priority, char *text, size_t len)
{
	static struct sockaddr_un to[] = {
		{ AF_UNIX, "/dev/log" },
		/* That leads here with systemd; not in a private /dev. */
		{ AF_UNIX, "/run/systemd/journal/dev-log" },
	};
	char head[64];
	int n = snprintf(head, sizeof(head),
	    "<%d>prhelper[%ld]: ", LOG_DAEMON | priority, (long)getpid());
	struct iovec iov[] = {
		{ .iov_base = head, .iov_len = (size_t)n },
		{ .iov_base = text, .iov_len = len },
	};
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	size_t i;

	for (i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
		mh.msg_name = &to[i];
		mh.msg_namelen = sizeof(to[i]);
		if (sendmsg(log_socket, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			break;
	}
}

/*
 * Whoever reads stderr may be stuck: then messages are lost, and no guest
 * waits for them. If he is gone, as libvirt is once a helper serves, they go
 * to syslog. One write per line, so that lines of threads do not mix.
 */
static void
emit(int priority, char *line, size_t len)
{
	static pthread_mutex_t one_writer = PTHREAD_MUTEX_INITIALIZER;
	struct pollfd err = { .fd = 2, .events = POLLOUT };
	const size_t skip = sizeof(name) - 1;

	/* Room for one line is no room for two. */
	pthread_mutex_lock(&one_writer);
	if (log_socket < 0 && poll(&err, 1, 0) == 1 &&
	    write(2, line, len) < 0 && errno == EPIPE)
		log_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (log_socket >= 0)
		send_to_syslog(priority, line + skip, len - skip);
	pthread_mutex_unlock(&one_writer);
}

static void
print(int priority, const char *fmt, va_list ap)
{
	char line[LINE_SIZE];
	const size_t size = sizeof(line) - 1;
	int saved = errno;
	size_t len = sizeof(name) - 1;

	memcpy(line, name, len);
	vsnprintf(line + len, size - len, fmt, ap);
	len = strlen(line);
	if (line[len - 1] == ':')
		snprintf(line + len, size - len, " %s", strerror(saved));
	len = strlen(line);
	line[len++] = '\n';
	emit(priority, line, len);
	errno = saved;
}

void
die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print(LOG_ERR, fmt, ap);
	va_end(ap);
	exit(die_status);
}

/*
 * Guests that fight for a key, say, bring about a warning with each command:
 * they shall not fill a disk. How many of this minute may still be shown, with
 * this one?
 */
static int
warnings_left(void)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	static int64_t minute;
	static int shown;
	int left;

	pthread_mutex_lock(&one);
	if (minute != now() / MINUTE) {
		minute = now() / MINUTE;
		shown = 0;
	}
	left = WARNINGS - shown;
	shown += left > 0;
	pthread_mutex_unlock(&one);
	return left;
}

void
warn(const char *fmt, ...)
{
	int left = warnings_left();
	va_list ap;

	if (left <= 0)
		return;
	va_start(ap, fmt);
	print(LOG_ERR, fmt, ap);
	va_end(ap);
	if (left == 1)
		say(LOG_ERRORS, "more are not shown in this minute");
}

void
say(int level, const char *fmt, ...)
{
	va_list ap;

	if (level > verbosity)
		return;
	va_start(ap, fmt);
	print(LOG_INFO, fmt, ap);
	va_end(ap);
}

void
log_to_syslog(void)
{
	log_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (log_socket < 0)
		die("syslog socket:");
}

uint32_t
get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
	    (uint32_t)p[2] << 8 | p[3];
}

uint64_t
get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

void
put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

void
put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)(v >> 32));
	put32(p + 4, (uint32_t)v);
}

int
number(const char *s)
{
	long n;
	char *end;

	/* strtol alone would take a sign or a leading space. */
	if (*s < '0' || *s > '9')
		return -1;
	errno = 0;
	n = strtol(s, &end, 10);
	return *end || errno || n > INT_MAX ? -1 : (int)n;
}

int
thread_start(void *(*start)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t t;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, WORKER_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&t, &attr, start, arg);
	pthread_attr_destroy(&attr);
	return r;
}

int
pid_alive(pid_t pid)
{
	char path[32], stat[128], *p;
	ssize_t n;
	int fd;

	if (pid <= 0 || pid == getpid())
		return 0;
	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
		if (access("/proc/self/stat", F_OK) == 0)
			return 0;
		return kill(pid, 0) == 0 || errno == EPERM;
	}
	n = read(fd, stat, sizeof(stat) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	stat[n] = '\0';
	/* pid (comm) state ...: the name may hold anything but is short */
	p = strrchr(stat, ')');
	return p && p[1] == ' ' && p[2] != 'Z' && p[2] != 'X';
}

void
pidfile_write(const char *path)
{
	char buf[32];
	int64_t end;
	ssize_t n;
	int fd, pid;

	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		die("pid file %s:", path);
	if ((n = read(fd, buf, sizeof(buf) - 1)) < 0)
		die("pid file %s:", path);
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	pid = number(buf);
	/* It may have been killed just now. */
	for (end = now() + PROBE_TIME; pid_alive(pid);
	     poll(NULL, 0, RETRY_TIME))
		if (now() >= end)
			die("pid file %s: process %d is alive", path, pid);
	n = snprintf(buf, sizeof(buf), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, buf, (size_t)n, 0) != n)
		die("pid file %s:", path);
	close(fd);
}

void
notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	socklen_t len;
	int s;

	if (!path)
		return;
	if (strlen(path) >= sizeof(sun.sun_path) ||
	    (path[0] != '/' && path[0] != '@')) {
		warn("NOTIFY_SOCKET %s: no address of a socket", path);
		return;
	}
	memcpy(sun.sun_path, path, strlen(path));
	len =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		sun.sun_path[0] = '\0';
	s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0 ||
	    sendto(s, state, strlen(state), MSG_NOSIGNAL,
		(struct sockaddr *)&sun, len) < 0)
		warn("NOTIFY_SOCKET %s:", path);
	if (s >= 0)
		close(s);
}
