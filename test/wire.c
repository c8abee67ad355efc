/* See LICENSE file for copyright and license details. */
/*
 * wire: good and bad clients against a running helper, without any disk.
 *
 *	wire PRHELPER [WORD]
 *
 * Prints TAP.  With WORD only the cases are run that have it in their name.
 * Sockets and the helpers' messages (file log) go to the current directory.
 *
 * None of the descriptors used here is a SCSI disk, so the one right answer
 * to a well-formed request is always the same; what counts is that exactly
 * one comes for each request, that nobody else suffers, and that the helper
 * afterwards has as many descriptors and threads as before.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	SOON = 20000,       /* ms: whatever is to happen at once */
	TOOLATE = 9000,     /* ms: a deadline of 5 s has passed by then */
	MAXCLIENTS = 1280,
	LOWLIMIT = 32,      /* RLIMIT_NOFILE of the helper with few clients */
	LOWCLIENTS = (LOWLIMIT - 16) / 2,
	INHERITED = 14,     /* descriptors, for one helper with LOWLIMIT */
	KILLTIME = 10000,   /* ms: libvirt's from SIGTERM to SIGKILL */
	THREADS = 64,
	PERTHREAD = 4,
	IDLE = 1024,
	SHARE = MAXCLIENTS - MAXCLIENTS / 8, /* of one uid */
	NOBODY = 65534,
	CHURN = 100000,
	SMALL = 1024 * 1024, /* RLIMIT_AS: room for three threads or so */
	RESTARTS = 20,
};

struct helper {
	char sock[108];
	pid_t pid;
	int nfds, nthreads;
};

struct test {
	const char *name;
	const char *(*run)(void);
};

struct job {
	const struct test *test;
	pthread_t thread;
	char why[200];
	int failed;
};

static const char want[] = "02 5/20/00 -";
static const unsigned char in[CDBLEN] = { 0x5e, [8] = 8 };
static const unsigned char out[CDBLEN] = { 0x5f, [8] = 24 };
static const unsigned char cleanup[CDBLEN] = { 0xff };
static const unsigned char param[65536];

static struct helper main_helper;
static const char *sock = main_helper.sock;
static const char *prhelper, *only;
static char dir[80];
static int devnull, ntests, nfailed;

static _Thread_local char whybuf[200];

static const char *
why(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(whybuf, sizeof(whybuf), fmt, ap);
	va_end(ap);
	return whybuf;
}

static void
msleep(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

/* The helper as a process. */

static int
count_fds(pid_t pid)
{
	char path[40];
	DIR *d;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	if (!(d = opendir(path)))
		return -1;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static long
status_of(pid_t pid, const char *field)
{
	char buf[256];
	size_t n = strlen(field);
	long v = -1;
	FILE *fp;

	snprintf(buf, sizeof(buf), "/proc/%d/status", (int)pid);
	if (!(fp = fopen(buf, "r")))
		return -1;
	while (v < 0 && fgets(buf, sizeof(buf), fp))
		if (!strncmp(buf, field, n) && buf[n] == ':')
			v = atol(buf + n + 1);
	fclose(fp);
	return v;
}

/* Does it use up a processor while nobody asks for anything? */
static int
spins(const struct helper *h)
{
	struct timespec before, after;
	clockid_t clock;

	if (clock_getcpuclockid(h->pid, &clock))
		return 1;
	clock_gettime(clock, &before);
	msleep(1000);
	clock_gettime(clock, &after);
	return (after.tv_sec - before.tv_sec) * 1000 +
	    (after.tv_nsec - before.tv_nsec) / 1000000 > 400;
}

static int
fds_settle(const struct helper *h)
{
	long long end = now_ms() + SOON;

	while (count_fds(h->pid) != h->nfds && now_ms() < end)
		msleep(20);
	return count_fds(h->pid) - h->nfds;
}

static void
exec_helper(const char *path, int what, rlim_t max, int inherited)
{
	struct rlimit rl = { max, max };
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = open("log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	dup2(fd, 2);
	dup2(devnull, 0);
	dup2(devnull, 1);
	while (inherited-- > 0)
		dup(devnull);
	if (max)
		setrlimit(what, &rl);
	execl(prhelper, prhelper, "-k", path, (char *)NULL);
	_exit(127);
}

static void
launch(struct helper *h, const char *name, int what, rlim_t max,
    int inherited)
{
	snprintf(h->sock, sizeof(h->sock), "%s/%s", dir, name);
	if ((h->pid = fork()) == 0)
		exec_helper(h->sock, what, max, inherited);
}

/* 1 if it exits with status 0, and soon enough for libvirt. */
static int
reap(const struct helper *h)
{
	long long end = now_ms() + KILLTIME;
	int status;

	while (waitpid(h->pid, &status, WNOHANG) == 0) {
		if (now_ms() > end) {
			kill(h->pid, SIGKILL);
			waitpid(h->pid, &status, 0);
			return 0;
		}
		msleep(1);
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int
stop(const struct helper *h)
{
	kill(h->pid, SIGTERM);
	return reap(h);
}

/* One client. */

static int
hello(const char *path)
{
	int fd = dial(path);

	if (fd >= 0 && handshake(fd, SOON) != 1) {
		close(fd);
		return -1;
	}
	return fd;
}

static int
answered(int fd, const unsigned char *cdb)
{
	char line[LINEMAX];
	struct answer a;

	return readanswer(fd, cdb, &a, SOON) == 0 &&
	    !strcmp(answer_line(line, &a, 0), want);
}

static int
ask(int fd, const unsigned char *cdb, int dev)
{
	if (sendfds(fd, cdb, CDBLEN, &dev, 1) < 0)
		return -1;
	return cdb[0] == 0x5f ? writen(fd, param, cdb_len(cdb)) : 0;
}

static int
request(int fd, const unsigned char *cdb, int dev)
{
	return ask(fd, cdb, dev) == 0 && answered(fd, cdb);
}

static int
served(int fd)
{
	return request(fd, in, devnull) && request(fd, out, devnull);
}

/* The first connection of a helper that starts. */
static int
first_hello(const char *path)
{
	long long end = now_ms() + SOON;
	int fd;

	while ((fd = hello(path)) < 0 && now_ms() < end)
		msleep(5);
	return fd;
}

/* Starts a helper and notes what it has open with one client that is quiet. */
static int
start_with(struct helper *h, const char *name, int what, rlim_t max,
    int inherited)
{
	int fd, r;

	launch(h, name, what, max, inherited);
	fd = first_hello(h->sock);
	r = served(fd);
	h->nfds = count_fds(h->pid) - 1;
	h->nthreads = (int)status_of(h->pid, "Threads");
	close(fd);
	return r ? 0 : -1;
}

static int
start(struct helper *h, const char *name)
{
	return start_with(h, name, 0, 0, 0);
}

/* The server closes within ms and does not say anything before. */
static int
closed(int fd, int ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&pfd, 1, ms) == 1 && read(fd, &c, 1) <= 0;
}

/* 1 if the request makes the server close the connection. */
static int
refused(const void *buf, size_t n, const int *fds, int nfds)
{
	int fd = hello(sock), r;

	r = sendfds(fd, buf, n, fds, nfds) == 0 && closed(fd, SOON);
	close(fd);
	return r;
}

/* Handshake. */

static const char *
t_handshake(void)
{
	static const unsigned char bad[][4] = {
		{ 0, 0, 0, 2 }, { 0, 0, 0, 3 }, { 1, 0, 0, 0 },
		{ 0x80, 0, 0, 0 }, { 0xff, 0xff, 0xff, 0xff },
	};
	static const unsigned char good[4] = { 0, 0, 0, 1 };
	unsigned char b[4];
	size_t i;
	int fd;

	for (i = 0; i < LEN(bad); i++) {
		fd = dial(sock);
		if (readn(fd, b, 4, SOON) != 4 || memcmp(b, good, 4))
			return "the features are not 00 00 00 01";
		writen(fd, bad[i], 4);
		if (!closed(fd, SOON))
			return why("row %zu was accepted", i);
		close(fd);
	}
	fd = dial(sock);
	readn(fd, b, 4, SOON);
	if (writen(fd, good, 4) < 0 || !served(fd) ||
	    !request(fd, cleanup, devnull))
		return "not served after the offered bit was taken";
	close(fd);
	return NULL;
}

static const char *
t_handshake_fd(void)
{
	int at, i, fd;

	for (at = 0; at < 4; at++) {
		fd = dial(sock);
		for (i = 0; i < 4; i++)
			sendfds(fd, param, 1, &devnull, i == at);
		if (readn(fd, whybuf, 4, SOON) != 4 || !closed(fd, SOON))
			return why("accepted on byte %d", at);
		close(fd);
	}
	return NULL;
}

/* The descriptor of a request. */

static const char *
t_fd_count(void)
{
	static const int counts[] = { 0, 2, 3, 100, MAXFDS };
	int fds[MAXFDS];
	size_t i;

	for (i = 0; i < LEN(fds); i++)
		fds[i] = devnull;
	for (i = 0; i < LEN(counts); i++)
		if (!refused(in, CDBLEN, fds, counts[i]))
			return why("%d accepted", counts[i]);
	return NULL;
}

/* The CDB byte by byte, with a descriptor on two bytes (-1: none). */
static void
send_bytes(int fd, const unsigned char *cdb, int first, int second)
{
	int i;

	for (i = 0; i < CDBLEN; i++)
		sendfds(fd, cdb + i, 1, &devnull, i == first || i == second);
}

static const char *
t_fd_place(void)
{
	int at, fd = hello(sock);

	for (at = 0; at < CDBLEN; at++) {
		send_bytes(fd, in, at, -1);
		if (!answered(fd, in))
			return why("not answered with it on byte %d", at);
	}
	close(fd);
	return NULL;
}

static const char *
t_fd_twice(void)
{
	int at, fd;

	for (at = 1; at < CDBLEN; at++) {
		fd = hello(sock);
		send_bytes(fd, in, at / 2, at);
		if (!closed(fd, SOON))
			return why("accepted on bytes %d and %d", at / 2, at);
		close(fd);
	}
	return NULL;
}

static const char *
t_fd_param(void)
{
	int at, fd;

	for (at = 0; at < 24; at++) {
		fd = hello(sock);
		sendfds(fd, out, CDBLEN, &devnull, 1);
		writen(fd, param, (size_t)at);
		sendfds(fd, param, (size_t)(24 - at), &devnull, 1);
		if (!closed(fd, SOON))
			return why("accepted on byte %d", at);
		close(fd);
	}
	return NULL;
}

static const char *
t_fd_released(void)
{
	int p[2], r, fd = hello(sock);
	char c;

	if (pipe(p) < 0)
		return "no pipe";
	r = request(fd, in, p[1]);
	close(p[1]);
	if (!r || readn(p[0], &c, 1, SOON) || fcntl(p[0], F_SETFL, O_NONBLOCK)
	    || read(p[0], &c, 1) != 0)
		return "the helper still holds it";
	if (!served(fd))
		return "not served afterwards";
	close(p[0]);
	close(fd);
	return NULL;
}

static int
all_opcodes(int fd, int dev)
{
	return request(fd, in, dev) && request(fd, out, dev) &&
	    request(fd, cleanup, dev);
}

static const char *
t_fd_kind(void)
{
	static const struct {
		const char *path;
		int flags;
	} files[] = {
		{ "/dev/null", O_RDWR }, { "/dev/null", O_RDONLY },
		{ "/dev/null", O_WRONLY }, { "/dev/null", O_PATH },
		{ ".", O_RDONLY }, { ".", O_PATH }, { "/dev/loop0", O_RDWR },
		{ "/dev/loop0", O_RDONLY }, { "/dev/loop0", O_PATH },
		{ "log", O_RDWR }, { "/dev/ptmx", O_RDWR | O_NOCTTY },
		{ "/proc/self/status", O_RDONLY },
	};
	int fd = hello(sock), dev;
	size_t i;

	for (i = 0; i < LEN(files); i++) {
		dev = open(files[i].path, files[i].flags | O_NONBLOCK);
		if (dev < 0)
			continue;
		if (!all_opcodes(fd, dev))
			return why("%s opened with %o", files[i].path,
			    (unsigned)files[i].flags);
		close(dev);
	}
	close(fd);
	return NULL;
}

static const char *
t_fd_nofile(void)
{
	int fd = hello(sock), i, dev[7];

	if (pipe(dev) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, dev + 2) < 0)
		return "no pipe or socket";
	dev[4] = eventfd(0, 0);
	dev[5] = memfd_create("wire", 0);
	dev[6] = fd;
	for (i = 0; i < (int)LEN(dev); i++)
		if (!all_opcodes(fd, dev[i]))
			return why("row %d", i);
	for (i = 0; i < (int)LEN(dev); i++)
		close(dev[i]);
	return NULL;
}

/* The CDB. */

static const char *
t_opcodes(void)
{
	unsigned char cdb[CDBLEN] = { 0, [8] = 8 };
	unsigned op;

	for (op = 0; op < 0xff; op++) {
		cdb[0] = (unsigned char)op;
		if (op != 0x5e && op != 0x5f &&
		    !refused(cdb, CDBLEN, &devnull, 1))
			return why("%02Xh accepted", op);
	}
	return NULL;
}

static const char *
t_lengths_good(void)
{
	static const unsigned char cdbs[][CDBLEN] = {
		{ 0x5e }, { 0x5f }, { 0x5e, [8] = 1 }, { 0x5f, [8] = 1 },
		{ 0x5e, [7] = 0x20, 0 }, { 0x5f, [7] = 0x20, 0 },
		{ 0x5e, [5] = 0xff, 0xff, 0, 8 }, { 0x5e, [7] = 0x1f, 0xff },
		{ 0x5f, [7] = 0x1f, 0xff }, { 0xff, [5] = 0, 0, 0, 24 },
		{ 0xff, [5] = 0xff, 0xff, 0xff, 0xff },
	};
	size_t i;
	int fd = hello(sock);

	for (i = 0; i < LEN(cdbs); i++)
		if (!request(fd, cdbs[i], devnull) || !served(fd))
			return why("row %zu", i);
	close(fd);
	return NULL;
}

static const char *
t_lengths_bad(void)
{
	static const unsigned char cdbs[][CDBLEN] = {
		{ 0x5e, [7] = 0x20, 1 }, { 0x5e, [7] = 0xff, 0xff },
		{ 0x5f, [7] = 0x20, 1 }, { 0x5f, [7] = 0xff, 0xff },
		{ 0x5f, [6] = 1, 0, 0 }, { 0x5f, [6] = 1, 0, 24 },
		{ 0x5f, [5] = 1, 0, 0, 24 }, { 0x5f, [5] = 0x80, 0, 0, 24 },
		{ 0x5f, [5] = 0xff, 0xff, 0xff, 0xff },
	};
	size_t i;

	for (i = 0; i < LEN(cdbs); i++)
		if (!refused(cdbs[i], CDBLEN, &devnull, 1))
			return why("row %zu accepted", i);
	return NULL;
}

/* Ends at the wrong place. */

/*
 * Sends the first n bytes of handshake, request and parameter list, and then
 * ends: by close or, to see what the server does, by shutdown.
 */
static int
cut(size_t n, int shut)
{
	unsigned char b[4];
	int r, fd = dial(sock);
	size_t head = n < 4 ? n : 4, cdb = n < 20 ? n - head : CDBLEN;

	r = readn(fd, b, 4, SOON) == 4 && writen(fd, param, head) == 0;
	if (r && cdb)
		r = sendfds(fd, out, cdb, &devnull, 1) == 0 &&
		    writen(fd, param, n - head - cdb) == 0;
	if (r && shut) {
		shutdown(fd, SHUT_WR);
		r = closed(fd, SOON);
	}
	close(fd);
	return r;
}

static const char *
t_cut(void)
{
	size_t n;

	for (n = 0; n < 4 + CDBLEN + 24; n++)
		if (!cut(n, 0) || !cut(n, 1))
			return why("after %zu bytes", n);
	return NULL;
}

static const char *
t_cut_late(void)
{
	int fd = hello(sock);

	ask(fd, out, devnull);
	close(fd);
	fd = hello(sock);
	ask(fd, out, devnull);
	shutdown(fd, SHUT_WR);
	if (!answered(fd, out) || !closed(fd, SOON))
		return "no answer to a whole request before the end";
	close(fd);
	fd = hello(sock);
	ask(fd, out, devnull);
	shutdown(fd, SHUT_RD);
	close(fd);
	return NULL;
}

/* Many requests, many clients. */

static const char *
t_pipeline(void)
{
	static const unsigned char *const cdbs[] = { in, out, cleanup };
	int i, fd = hello(sock);

	for (i = 0; i < 60; i++)
		if (ask(fd, cdbs[i % 3], devnull) < 0)
			return why("request %d not taken", i);
	ask(fd, param, devnull);
	for (i = 0; i < 60; i++)
		if (!answered(fd, cdbs[i % 3]))
			return why("answer %d is wrong or missing", i);
	if (!closed(fd, SOON))
		return "the bad request at the end was answered";
	close(fd);
	return NULL;
}

static int
flood(int fd)
{
	int n = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (n < 5000 && sendfds(fd, in, CDBLEN, &devnull, 1) == 0)
		n++;
	return n;
}

/* How much may the helper grow, in kB? See sanitize.t. */
static long
growth(void)
{
	const char *max = getenv("GROWTH");

	return max ? atol(max) : 4096;
}

static const char *
t_never_read(void)
{
	int bad[16], i, fd = hello(sock);
	long rss;

	if (!served(fd))
		return "no connection";
	rss = status_of(main_helper.pid, "VmRSS");
	for (i = 0; i < (int)LEN(bad); i++)
		if (flood(bad[i] = hello(sock)) == 0)
			return "nothing could be sent";
	for (i = 0; i < 1000; i++) {
		if (!request(fd, in, devnull))
			return why("another client's request %d failed", i);
		flood(bad[i % (int)LEN(bad)]);
	}
	rss = status_of(main_helper.pid, "VmRSS") - rss;
	for (i = 0; i < (int)LEN(bad); i++)
		close(bad[i]);
	close(fd);
	return rss > growth() ? why("grown by %ld kB", rss) : NULL;
}

static const char *
busy(const int *fds)
{
	unsigned char cdb[CDBLEN] = { 0 };
	unsigned i, len;

	for (i = 0; i < 200; i++) {
		len = i * 41 % 8193;
		cdb[0] = i & 1 ? 0x5e : 0x5f;
		cdb[7] = (unsigned char)(len >> 8);
		cdb[8] = (unsigned char)len;
		if (!request(fds[i % PERTHREAD], cdb, devnull))
			return "wrong answer";
	}
	return NULL;
}

static void *
busy_thread(void *arg)
{
	return (void *)busy(arg);
}

static const char *
t_many(void)
{
	static int fds[THREADS][PERTHREAD];
	pthread_t t[THREADS];
	const char *bad = NULL;
	void *r;
	int i, j;

	for (i = 0; i < THREADS; i++)
		for (j = 0; j < PERTHREAD; j++)
			if ((fds[i][j] = hello(sock)) < 0)
				return why("no connection %d/%d", i, j);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, busy_thread, fds[i]))
			return "no thread";
	for (i = 0; i < THREADS; i++) {
		pthread_join(t[i], &r);
		bad = r ? r : bad;
	}
	for (i = 0; i < THREADS; i++)
		for (j = 0; j < PERTHREAD; j++)
			close(fds[i][j]);
	return bad;
}

/* Every client asks before any answer is read. */
static int
all_served(const int *fds, int n)
{
	int i, r = 1;

	for (i = 0; i < n; i++)
		r &= ask(fds[i], out, devnull) == 0;
	for (i = 0; i < n; i++)
		r &= answered(fds[i], out);
	return r;
}

static void
close_all(const int *fds, int n)
{
	while (n-- > 0)
		close(fds[n]);
}

/*
 * Fills the client table: how many were let in.  fds[n] to fds[n + 3] are
 * connected and have not got their feature bytes.
 */
static int
fill(const char *path, int *fds, int max, int shake)
{
	struct pollfd pfd = { .events = POLLIN };
	int i, n;

	for (n = 0; n < max; n++) {
		pfd.fd = fds[n] = dial(path);
		if (poll(&pfd, 1, 2000) != 1)
			break;
		if (shake && handshake(fds[n], SOON) != 1)
			return -1;
	}
	for (i = 1; i < 4; i++)
		fds[n + i] = dial(path);
	return n;
}

static const char *
full(const struct helper *h, int *fds, int max)
{
	struct pollfd pfd = { .events = POLLIN };
	int n = fill(h->sock, fds, max + 1, 1);

	if (n < max / 2 || n > max)
		return why("%d clients instead of %d", n, max);
	if (!all_served(fds, n))
		return "a client was not served while the table was full";
	if (spins(h))
		return "the helper spins";
	pfd.fd = fds[n];
	if (poll(&pfd, 1, 0) != 0)
		return "there was room for another one";
	close(fds[0]);
	if (handshake(fds[n], SOON) != 1 || !served(fds[n]))
		return "place made, but the waiting client was not served";
	pfd.fd = fds[n + 1];
	if (poll(&pfd, 1, 0) != 0 || !all_served(fds + 1, n))
		return "more than one was let in for one that left";
	close_all(fds + 1, n);
	for (max = n + 1; max < n + 4; max++)
		if (handshake(fds[max], SOON) != 1 || !served(fds[max]))
			return "not served after all others left";
	close_all(fds + n + 1, 3);
	return NULL;
}

/* 1: as it should be, 2: BUSY. */
static int
busy_or_answered(int fd)
{
	char line[LINEMAX];
	struct answer a;

	if (readanswer(fd, in, &a, SOON))
		return 0;
	return !strcmp(answer_line(line, &a, 0), want) ? 1 :
	    !strcmp(line, "08 - -") ? 2 : 0;
}

/*
 * So many descriptors are inherited that none is left for a disk: an answer
 * all the same, and service as soon as there are some again.
 */
static const char *
t_starved(void)
{
	int fds[LOWCLIENTS + 5], n, i, r = 1;
	struct helper h;

	if (start_with(&h, "starved", RLIMIT_NOFILE, LOWLIMIT, INHERITED))
		return "the helper does not start";
	n = fill(h.sock, fds, LOWCLIENTS, 1);
	for (i = 0; i < n; i++)
		r &= ask(fds[i], in, devnull) == 0;
	for (i = 0; i < n; i++)
		r &= busy_or_answered(fds[i]) > 0;
	if (spins(&h))
		return "the helper spins";
	if (n < 4 || !r)
		return why("a request of %d clients was not answered", n);
	close_all(fds + 4, n);
	for (i = 0; !request(fds[0], in, devnull); i++, msleep(50))
		if (i * 50 > SOON)
			return "no service when there are descriptors again";
	close_all(fds, 4);
	return stop(&h) ? NULL : "no clean end";
}

/* More descriptors than the helper may open, from every client at once. */
static const char *
fd_flood(const char *path, int *fds)
{
	int many[MAXFDS], i, r = 1;

	for (i = 0; i < (int)LEN(many); i++)
		many[i] = devnull;
	for (i = 0; i < LOWCLIENTS; i++)
		fds[i] = hello(path);
	for (i = 0; i < LOWCLIENTS; i++)
		r &= sendfds(fds[i], in, CDBLEN, many, (int)LEN(many)) == 0;
	for (i = 0; i < LOWCLIENTS; i++)
		r &= closed(fds[i], SOON);
	close_all(fds, LOWCLIENTS);
	return r ? NULL : "many descriptors did not end the connection";
}

static const char *
t_full_low(void)
{
	int fds[LOWCLIENTS + 5];
	const char *bad;
	struct helper h;

	if (start_with(&h, "low", RLIMIT_NOFILE, LOWLIMIT, 0))
		return "the helper does not start";
	bad = full(&h, fds, LOWCLIENTS);
	if (!bad)
		bad = fd_flood(h.sock, fds);
	if (!bad)
		bad = full(&h, fds, LOWCLIENTS);
	if (!bad && fds_settle(&h))
		bad = why("%d descriptors left over", fds_settle(&h));
	return stop(&h) || bad ? bad : "no clean end";
}

static const char *
t_full(void)
{
	static int fds[MAXCLIENTS + 5];
	struct rlimit rl;

	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < 2 * MAXCLIENTS + 64)
		return "SKIP the limit of open files is too low";
	return full(&main_helper, fds, MAXCLIENTS);
}

/* Under attack */

/* All is served with 1,024 who say nothing beside it. */
static const char *
t_idle_crowd(void)
{
	static int fds[IDLE];
	const char *bad;
	int i, n;

	for (n = 0; n < IDLE && (fds[n] = hello(sock)) >= 0; n++)
		;
	bad = n < IDLE ? why("no connection %d", n) : t_many();
	for (i = 0; i < n && !bad; i += 100)
		if (!served(fds[i]))
			bad = why("idle client %d is not served any more", i);
	close_all(fds, n);
	return bad;
}

/* Connects as often as it may, as somebody else, and holds on: how many. */
static void
hold_on(int told, int until)
{
	static int fds[MAXCLIENTS];
	char c;
	int n = 0;

	if (setuid(NOBODY))
		_exit(1);
	while (n < MAXCLIENTS && (fds[n] = hello(sock)) >= 0)
		n++;
	write(told, &n, sizeof(n));
	read(until, &c, 1);
	_exit(0);
}

static const char *
t_one_uid(void)
{
	int n = 0, fd, r, told[2], until[2];
	pid_t pid;

	if (getuid() != 0 || chmod(dir, 0711) || chmod(sock, 0777))
		return "SKIP only root can be somebody else";
	pipe(told);
	pipe(until);
	if ((pid = fork()) == 0) {
		close(until[1]);
		hold_on(told[1], until[0]);
	}
	close(told[1]);
	if (read(told[0], &n, sizeof(n)) != sizeof(n))
		n = -1;
	fd = hello(sock);
	r = fd >= 0 && served(fd);
	close(fd);
	close(told[0]);
	close(until[0]);
	close(until[1]);
	waitpid(pid, NULL, 0);
	if (n != SHARE)
		return why("%d connections of one uid, not %d", n, SHARE);
	return r ? NULL : "another uid was not served";
}

/* Connect and go: at once, after half the handshake, a CDB, a request. */
static const char *
t_churn(void)
{
	long rss = 0;
	int i, fd;

	for (i = 0; i < CHURN; i++) {
		if (i == CHURN / 10)
			rss = status_of(main_helper.pid, "VmRSS");
		if ((fd = i % 4 > 1 ? hello(sock) : dial(sock)) < 0)
			return why("no connection %d", i);
		if (i % 4 == 1)
			writen(fd, param, 2);
		if (i % 4 == 2)
			sendfds(fd, out, CDBLEN, &devnull, 1);
		if (i % 4 == 3)
			ask(fd, in, devnull);
		close(fd);
	}
	fd = hello(sock);
	if (!served(fd))
		return "nobody is served afterwards";
	close(fd);
	rss = status_of(main_helper.pid, "VmRSS") - rss;
	return rss > growth() ? why("grown by %ld kB", rss) : NULL;
}

/* There is no memory for threads: BUSY, and service when there is again. */
static const char *
t_no_threads(void)
{
	int fds[THREADS], i, n[3] = { 0 };
	struct helper h;
	long long end;

	if (getenv("GROWTH"))
		return "SKIP who watches himself needs memory";
	if (start_with(&h, "nothreads", RLIMIT_AS, SMALL, 0))
		return "the helper does not start";
	for (i = 0; i < THREADS; i++)
		fds[i] = hello(h.sock);
	for (i = 0; i < THREADS; i++)
		if (ask(fds[i], in, devnull))
			return "a request could not be sent";
	for (i = 0; i < THREADS; i++)
		n[busy_or_answered(fds[i])]++;
	if (n[0] || !n[1] || !n[2])
		return why("%d answered, %d BUSY, %d neither", n[1], n[2],
		    n[0]);
	/* A thread stays with its connection for a second. */
	for (i = 0; i < THREADS; i++)
		for (end = now_ms() + SOON; !request(fds[i], in, devnull);
		    msleep(50))
			if (now_ms() > end)
				return "no service afterwards";
	close_all(fds, THREADS);
	return stop(&h) ? NULL : "no clean end";
}

/* What takes time; these run side by side, each in a thread. */

/*
 * Sends total bytes of p, one every ms, the first with a descriptor if it is
 * a CDB, then waits: 1 if the server closes, and does so in time.
 */
static int
dribble(int fd, const unsigned char *p, size_t total, int every)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	long long end = now_ms() + TOOLATE;
	int r, left, isfd = p == in || p == out;
	char c;

	do {
		if (total) {
			sendfds(fd, p++, 1, &devnull, isfd);
			isfd = 0;
			total--;
		}
		left = (int)(end - now_ms());
		if (left <= 0)
			return 0;
		r = poll(&pfd, 1, left < every ? left : every);
	} while (r == 0);
	return r == 1 && read(fd, &c, 1) <= 0;
}

static const char *
late(int shake, const unsigned char *p, size_t total, int every)
{
	unsigned char b[4];
	int r, fd = shake ? hello(sock) : dial(sock);

	if (!shake && readn(fd, b, 4, SOON) != 4)
		return "no feature bytes";
	r = dribble(fd, p, total, every);
	close(fd);
	return r ? NULL : "still connected after 9 s";
}

static const char *
s_shake_silent(void)
{
	return late(0, param, 0, 1000);
}

static const char *
s_shake_half(void)
{
	return late(0, param, 3, 10);
}

static const char *
s_shake_slow(void)
{
	return late(0, param, 4, 4000);
}

static const char *
s_cdb_half(void)
{
	return late(1, in, 15, 10);
}

static const char *
s_cdb_slow(void)
{
	return late(1, in, CDBLEN, 1000);
}

static const char *
late_param(size_t total, int every)
{
	int r, fd = hello(sock);

	if (!served(fd))
		return "no connection";
	sendfds(fd, out, CDBLEN, &devnull, 1);
	r = dribble(fd, param, total, every);
	close(fd);
	return r ? NULL : "still connected after 9 s";
}

static const char *
s_param_none(void)
{
	return late_param(0, 1000);
}

static const char *
s_param_slow(void)
{
	return late_param(24, 1000);
}

static const char *
s_idle(void)
{
	int fresh = hello(sock), used = hello(sock), r = served(used);

	msleep(7000);
	r = r && served(fresh) && served(used);
	close(fresh);
	close(used);
	return r ? NULL : "not served after 7 s of quiet";
}

/* Slow, but inside every deadline. */
static const char *
s_slow_good(void)
{
	unsigned char b[4];
	int i, fd = dial(sock), r = readn(fd, b, 4, SOON) == 4;

	for (i = 0; r && i < 4; i++, msleep(300))
		r = writen(fd, param, 1) == 0;
	for (i = 0; r && i < CDBLEN; i++, msleep(100))
		r = sendfds(fd, out + i, 1, &devnull, i == 5) == 0;
	for (i = 0; r && i < 24; i++, msleep(30))
		r = writen(fd, param, 1) == 0;
	r = r && answered(fd, out) && served(fd);
	close(fd);
	return r ? NULL : "not served";
}

/*
 * The worker of a connection gives it back after about a second of quiet:
 * requests that come just then.
 */
static const char *
s_hand_back(void)
{
	int fds[40], n, i, r = 1;

	for (i = 0; i < (int)LEN(fds); i++)
		fds[i] = hello(sock);
	for (n = 0; r && n < 6; n++) {
		r = all_served(fds, (int)LEN(fds));
		msleep(960);
		for (i = 0; r && i < (int)LEN(fds); i++, msleep(2))
			r = request(fds[i], in, devnull);
	}
	close_all(fds, (int)LEN(fds));
	return r ? NULL : "a request was not answered";
}

/*
 * Many requests that the helper sees at once: no client waits until another
 * is quiet, which would take a second for each.
 */
static const char *
s_burst(void)
{
	int fds[40], i, r = 1;
	struct helper h;
	long long began;
	char c[4];

	if (start(&h, "burst"))
		return "the helper does not start";
	for (i = 0; i < (int)LEN(fds); i++)
		r &= readn(fds[i] = dial(h.sock), c, 4, SOON) == 4;
	kill(h.pid, SIGSTOP);
	for (i = 0; i < (int)LEN(fds); i++)
		r &= writen(fds[i], param, 4) == 0 &&
		    ask(fds[i], in, devnull) == 0;
	kill(h.pid, SIGCONT);
	began = now_ms();
	for (i = 0; i < (int)LEN(fds); i++)
		r &= answered(fds[i], in);
	if (now_ms() - began > 5000)
		r = 0;
	close_all(fds, (int)LEN(fds));
	return stop(&h) && r ? NULL : "not all were answered at once";
}

static const char *
s_silent_crowd(void)
{
	int fds[LOWCLIENTS + 5], n;
	const char *bad = NULL;
	struct helper h;

	if (start_with(&h, "crowd", RLIMIT_NOFILE, LOWLIMIT, 0))
		return "the helper does not start";
	n = fill(h.sock, fds, LOWCLIENTS + 1, 0);
	if (n > LOWCLIENTS)
		bad = "they do not fill it";
	else if (handshake(fds[n], TOOLATE) != 1 || !served(fds[n]))
		bad = "the client behind them was not served";
	close_all(fds, n + 4);
	return stop(&h) || bad ? bad : "no clean end";
}

/* SIGTERM while clients are in the middle of something, or do not care. */
static const char *
s_term_midway(void)
{
	static const size_t at[] = { 0, 2, 4, 5, 12, 20, 30, 43 };
	int fds[LEN(at) + 1];
	struct helper h;
	size_t i, n;

	if (start(&h, "midway"))
		return "the helper does not start";
	for (i = 0; i < LEN(at); i++) {
		n = at[i];
		fds[i] = n < 4 ? dial(h.sock) : hello(h.sock);
		if (n < 4)
			writen(fds[i], param, n);
		if (n > 4)
			sendfds(fds[i], out, n > 20 ? CDBLEN : n - 4,
			    &devnull, 1);
		if (n > 20)
			writen(fds[i], param, n - 20);
	}
	flood(fds[i] = hello(h.sock));
	if (!stop(&h))
		return "no clean end in 10 s";
	close_all(fds, (int)LEN(fds));
	return NULL;
}

/*
 * What was sent before SIGTERM is answered, whatever the helper was doing
 * with the connection: it is stopped while it is all sent, so that it sees
 * requests and signal at once.
 */
static const char *
s_term_answers(void)
{
	enum { EACH = 5, REQUESTS = 10 };
	int fds[3 * EACH], i, n, r = 1;
	struct helper h;
	char c[4];

	if (start(&h, "answers"))
		return "the helper does not start";
	for (i = 0; i < 2 * EACH; i++)
		served(fds[i] = hello(h.sock));
	msleep(2500);
	for (i = EACH; i < 2 * EACH; i++)
		served(fds[i]);
	for (; i < 3 * EACH; i++)
		r &= readn(fds[i] = dial(h.sock), c, 4, SOON) == 4;
	kill(h.pid, SIGSTOP);
	for (i = 2 * EACH; i < 3 * EACH; i++)
		r &= writen(fds[i], param, 4) == 0;
	for (n = 0; n < REQUESTS; n++)
		for (i = 0; i < 3 * EACH; i++)
			r &= ask(fds[i], n % 2 ? in : out, devnull) == 0;
	kill(h.pid, SIGTERM);
	kill(h.pid, SIGCONT);
	for (i = 0; r && i < 3 * EACH; i++)
		for (n = 0; r && n < REQUESTS; n++)
			r = answered(fds[i], n % 2 ? in : out);
	for (i = 0; r && i < 3 * EACH; i++)
		r = closed(fds[i], SOON);
	close_all(fds, 3 * EACH);
	if (!reap(&h))
		return "no clean end in 10 s";
	return r ? NULL : "a request was not answered";
}

/* Restarts under load. */

static struct helper restarted;
static atomic_int done, nlost, nsent;

/* As QEMU: for 5 s, as long as the CDB was not sent. */
static int
send_cdb(int *fd, const unsigned char *cdb)
{
	long long end = now_ms() + 5000;

	while (now_ms() < end) {
		if (*fd < 0 && (*fd = hello(restarted.sock)) < 0) {
			msleep(20);
			continue;
		}
		if (sendfds(*fd, cdb, CDBLEN, &devnull, 1) == 0)
			return 0;
		close(*fd);
		*fd = -1;
	}
	return -1;
}

static void *
retrying(void *arg)
{
	const unsigned char *cdb = arg;
	int fd = -1, lost;

	while (!done) {
		nsent++;
		lost = send_cdb(&fd, cdb) < 0;
		if (!lost && cdb[0] == 0x5f)
			lost = writen(fd, param, cdb_len(cdb)) < 0;
		if (!lost && !answered(fd, cdb))
			lost = 1;
		if (lost) {
			nlost++;
			close(fd);
			fd = -1;
		}
	}
	close(fd);
	return NULL;
}

static const char *
t_restart(void)
{
	pthread_t t[8];
	size_t i;
	long long began = 0, longest = 0;
	int fd, n, clean = 0;

	if (start(&restarted, "restart"))
		return "the helper does not start";
	for (i = 0; i < LEN(t); i++)
		if (pthread_create(&t[i], NULL, retrying,
		    (void *)(i % 2 ? in : out)))
			return "no thread";
	for (n = 0; clean == n && longest <= 5000 && n < RESTARTS; n++) {
		msleep(60 + n);
		began = now_ms();
		clean += stop(&restarted);
		if (now_ms() - began > longest)
			longest = now_ms() - began;
		launch(&restarted, "restart", 0, 0, 0);
		/* Before that a SIGTERM finds no handler for it */
		if ((fd = first_hello(restarted.sock)) < 0)
			return "the helper does not start again";
		close(fd);
	}
	msleep(100);
	done = 1;
	for (i = 0; i < LEN(t); i++)
		pthread_join(t[i], NULL);
	clean += stop(&restarted);
	if (clean != n + 1)
		return why("no clean end after %d restarts", clean);
	if (longest > 5000)
		return why("busy clients delay the end by %lld ms", longest);
	return nlost ? why("%d of %d commands lost", nlost, nsent) : NULL;
}

/* At the end: as it was at the start. */
static const char *
t_same(void)
{
	const struct helper *h = &main_helper;
	long long end = now_ms() + 2 * SOON;
	long n = 0;

	if (waitpid(h->pid, NULL, WNOHANG) != 0)
		return "the helper is gone";
	if (fds_settle(h))
		return why("%d more open descriptors", fds_settle(h));
	while (now_ms() < end) {
		n = status_of(h->pid, "Threads") - h->nthreads;
		if (n <= 0)
			return NULL;
		msleep(50);
	}
	return why("%ld more threads", n);
}

static const struct test tests[] = {
	{ "handshake: only offered feature bits", t_handshake },
	{ "handshake: a descriptor in it", t_handshake_fd },
	{ "descriptor: none or several", t_fd_count },
	{ "descriptor: on any byte of the CDB", t_fd_place },
	{ "descriptor: one on each of two bytes", t_fd_twice },
	{ "descriptor: with the parameter list", t_fd_param },
	{ "descriptor: closed after the answer", t_fd_released },
	{ "descriptor: files that are no disk", t_fd_kind },
	{ "descriptor: pipe, socket and the like", t_fd_nofile },
	{ "CDB: every other opcode", t_opcodes },
	{ "CDB: lengths that are fine", t_lengths_good },
	{ "CDB: lengths that are too large", t_lengths_bad },
	{ "client ends after every byte", t_cut },
	{ "client ends after a whole request", t_cut_late },
	{ "requests without waiting for answers", t_pipeline },
	{ "clients that never read", t_never_read },
	{ "256 connections, 64 busy", t_many },
	{ "table full: 1280 clients", t_full },
	{ "1,024 idle connections, and 256, 64 of them busy", t_idle_crowd },
	{ "one uid leaves room for others", t_one_uid },
	{ "connections that come and go", t_churn },
};

static const struct test slow[] = {
	{ "late: handshake without a byte", s_shake_silent },
	{ "late: half a handshake", s_shake_half },
	{ "late: handshake byte by byte", s_shake_slow },
	{ "late: most of a CDB", s_cdb_half },
	{ "late: CDB byte by byte", s_cdb_slow },
	{ "late: no parameter list", s_param_none },
	{ "late: parameter list byte by byte", s_param_slow },
	{ "late: silent clients fill the table", s_silent_crowd },
	{ "slow client inside the deadlines", s_slow_good },
	{ "idle client is served after 7 s", s_idle },
	{ "requests after about 1 s of quiet", s_hand_back },
	{ "40 requests at the same moment", s_burst },
	{ "SIGTERM with clients midway", s_term_midway },
	{ "SIGTERM: what was sent is answered", s_term_answers },
};

/* With helpers of their own; while the main one lets its threads go. */
static const struct test own[] = {
	{ "table full: few descriptors allowed", t_full_low },
	{ "no descriptors left for a disk", t_starved },
	{ "20 restarts under load", t_restart },
	{ "no memory for threads", t_no_threads },
};

static const struct test last[] = {
	{ "descriptors and threads as at the start", t_same },
};

static void
report(const char *name, const char *bad)
{
	int skip = bad && !strncmp(bad, "SKIP", 4);

	printf("%sok %d - %s%s%s\n", bad && !skip ? "not " : "", ++ntests,
	    name, skip ? " # " : "", skip ? bad : "");
	if (bad && !skip) {
		printf("# %s\n", bad);
		nfailed++;
	}
	fflush(stdout);
}

static int
wanted(const struct test *t)
{
	return !only || strstr(t->name, only);
}

/* What a case that failed left open must not make the next one fail. */
static void
close_rest(void)
{
	int fd;

	for (fd = devnull + 1; fd < 3 * MAXCLIENTS; fd++)
		close(fd);
}

static void
run(const struct test *t, size_t n)
{
	const char *bad;
	int left;

	for (; n-- > 0; t++) {
		if (!wanted(t))
			continue;
		bad = t->run();
		if (!bad && (left = fds_settle(&main_helper))) {
			bad = why("%d descriptors left over", left);
			main_helper.nfds += left;
		}
		report(t->name, bad);
		if (bad)
			close_rest();
	}
}

static void *
run_job(void *arg)
{
	struct job *j = arg;
	const char *bad = j->test->run();

	if (bad)
		snprintf(j->why, sizeof(j->why), "%s", bad);
	j->failed = bad != NULL;
	return NULL;
}

static void
run_together(void)
{
	static struct job jobs[LEN(slow)];
	size_t i;

	for (i = 0; i < LEN(slow); i++) {
		jobs[i].test = &slow[i];
		if (wanted(&slow[i]) &&
		    pthread_create(&jobs[i].thread, NULL, run_job, &jobs[i]))
			exit(1);
	}
	for (i = 0; i < LEN(slow); i++) {
		if (!wanted(&slow[i]))
			continue;
		pthread_join(jobs[i].thread, NULL);
		report(slow[i].name, jobs[i].failed ? jobs[i].why : NULL);
	}
}

int
main(int argc, char *argv[])
{
	struct rlimit rl;

	if (argc < 2 || !getcwd(dir, sizeof(dir))) {
		fputs("usage: wire PRHELPER [WORD]\n", stderr);
		return 1;
	}
	prhelper = argv[1];
	only = argv[2];
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	devnull = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (start(&main_helper, "sock")) {
		puts("Bail out! the helper does not start");
		return 1;
	}
	run(tests, LEN(tests));
	run_together();
	run(own, LEN(own));
	run(last, LEN(last));
	report("SIGTERM ends it with status 0",
	    stop(&main_helper) ? NULL : "another status");
	printf("1..%d\n", ntests);
	return nfailed != 0;
}
