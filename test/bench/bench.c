/* See LICENSE file for copyright and license details. */
/*
 * bench: how long a helper takes, as its client sees it.
 *
 *	bench trips|connects|rate [-c CONNECTIONS] [-i IDLE] [-n N] [-p MS]
 *	    SOCKET FILE CDBHEX[:PARAMHEX]...
 *
 * trips: N requests (1000), one after the other, with a pause before each, and
 * beside so many connections that say nothing. Where there are several
 * commands they take turns. SOCKET "-": no helper, SG_IO.
 * connects: the same, each with a connection of its own, which is a part of
 * it. Both print median and 99th percentile in nanoseconds.
 * rate: N requests on each of the connections (16) at once. Prints how many
 * there were in a second.
 *
 *	bench start [-n N] SOCKET COMMAND...
 *
 *	bench run [-n N] COMMAND...
 *
 * From the start of a helper until it greets, and from the start of a command
 * to its end: the same two figures.
 * Exit status: 1 a request was not answered, or not GOOD where the first one
 * was; 3 wrong use.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../client.h"

enum {
	WARM = 50, /* requests that are not counted */
	COMMANDS = 8,
};

enum { TRIPS, CONNECTS, RATE, START, RUN, MODES };

struct command {
	unsigned char cdb[CDBLEN], param[DATAMAX];
	size_t out; /* bytes of param */
};

static struct command commands[COMMANDS];
static int ncommands, disk, connections = 16, idle, rest;
static int first = -1; /* status of the first answer */
static long count = 1000;
static const char *sock;

static void
fail(const char *what)
{
	fprintf(stderr, "bench: %s\n", what);
	exit(1);
}

static int64_t
ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Blocking, as poll() before each read would be a part of what is measured. */
static void
get(int fd, unsigned char *buf, size_t n)
{
	ssize_t r;

	for (; n > 0; buf += r, n -= (size_t)r)
		if ((r = read(fd, buf, n)) <= 0)
			fail("the connection was closed");
}

static int
joined(void)
{
	unsigned char features[4];
	int fd = dial(sock);

	if (fd < 0)
		fail("no connection");
	get(fd, features, sizeof(features));
	memset(features, 0, sizeof(features));
	if (writen(fd, features, sizeof(features)) < 0)
		fail("no handshake");
	return fd;
}

static int
ask_device(const struct command *c)
{
	struct answer a;

	direct(disk, c->cdb, c->param, c->out, &a);
	return a.status;
}

static int
ask_helper(int fd, const struct command *c)
{
	unsigned char head[HDRLEN], data[DATAMAX];

	if (sendfds(fd, c->cdb, CDBLEN, &disk, 1) < 0 ||
	    (c->out && writen(fd, c->param, c->out) < 0))
		fail("the request could not be sent");
	get(fd, head, sizeof(head));
	get(fd, data, getbe(head + 4, 4));
	return (int)getbe(head, 4);
}

/* The ith request; fd -1: without a helper. */
static void
trip(int fd, long i)
{
	const struct command *c = &commands[i % ncommands];
	int status = fd < 0 ? ask_device(c) : ask_helper(fd, c);

	if (first < 0)
		first = status;
	if (status != first)
		fail("it was answered in another way than the first one");
}

static int
compare(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void
print(int64_t *took)
{
	qsort(took, (size_t)count, sizeof(*took), compare);
	printf("%lld %lld\n", (long long)took[count / 2],
	    (long long)took[count - 1 - count / 100]);
}

static void
trips(void)
{
	int64_t *took = calloc((size_t)count, sizeof(*took)), start;
	int fd = strcmp(sock, "-") ? joined() : -1;
	long i;

	for (i = 0; i < WARM && !rest; i++)
		trip(fd, i);
	for (i = 0; i < count; i++) {
		if (rest)
			poll(NULL, 0, rest);
		start = ns();
		trip(fd, i);
		took[i] = ns() - start;
	}
	print(took);
}

static void
connects(void)
{
	int64_t *took = calloc((size_t)count, sizeof(*took)), start;
	int fd;
	long i;

	for (i = 0; i < count; i++) {
		start = ns();
		fd = joined();
		trip(fd, i);
		close(fd);
		took[i] = ns() - start;
	}
	print(took);
}

static void *
hurry(void *arg)
{
	int fd = *(int *)arg;
	long i;

	for (i = 0; i < count; i++)
		trip(fd, i);
	return NULL;
}

static void
rate(void)
{
	size_t n = (size_t)connections, i;
	pthread_t *threads = calloc(n, sizeof(*threads));
	int *fds = calloc(n, sizeof(*fds));
	int64_t start;

	for (i = 0; i < n; i++)
		trip(fds[i] = joined(), 0);
	start = ns();
	for (i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, hurry, &fds[i]))
			fail("no thread");
	for (i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	printf("%.0f\n", (double)n * (double)count * 1e9 /
	    (double)(ns() - start));
}

/* How long one takes to come up. It is gone afterwards. */
static int64_t
start_once(char *argv[])
{
	const struct timespec pause = { .tv_nsec = 20000 };
	unsigned char features[4];
	int64_t begin = ns(), took;
	pid_t pid;
	int fd;

	unlink(sock);
	if ((pid = fork()) == 0) {
		execvp(argv[0], argv);
		_exit(1);
	}
	/* Not without a rest: it may have been put on our processor. */
	while ((fd = dial(sock)) < 0) {
		if (waitpid(pid, NULL, WNOHANG) > 0)
			fail("it does not start");
		nanosleep(&pause, NULL);
	}
	get(fd, features, sizeof(features));
	took = ns() - begin;
	close(fd);
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
	return took;
}

/* How long a command takes that does its work and ends. */
static int64_t
run_once(char *argv[])
{
	int64_t begin = ns();
	int status;
	pid_t pid;

	if ((pid = fork()) == 0) {
		dup2(open("/dev/null", O_WRONLY), 1);
		execvp(argv[0], argv);
		_exit(1);
	}
	if (waitpid(pid, &status, 0) < 0 || status)
		fail("it failed");
	return ns() - begin;
}

static void
repeat(int64_t (*once)(char *argv[]), char *argv[])
{
	int64_t *took = calloc((size_t)count, sizeof(*took));
	long i;

	for (i = 0; i < count; i++)
		took[i] = once(argv);
	print(took);
}

static void
usage(void)
{
	fputs("usage: bench trips|connects|rate [-c CONNECTIONS] [-i IDLE] "
	      "[-n N] [-p MS]\n"
	      "    SOCKET FILE CDBHEX[:PARAMHEX]...\n"
	      "       bench start [-n N] SOCKET COMMAND...\n"
	      "       bench run [-n N] COMMAND...\n",
	    stderr);
	exit(3);
}

static void
add_command(const char *hex)
{
	struct command *c = &commands[ncommands++];
	size_t len = strcspn(hex, ":");
	const char *param = hex[len] ? hex + len + 1 : "";
	long n = unhex(c->param, DATAMAX, param, strlen(param));

	if (ncommands == COMMANDS || n < 0 ||
	    unhex(c->cdb, CDBLEN, hex, len) < 1)
		usage();
	c->out = (size_t)n;
}

int
main(int argc, char *argv[])
{
	static const struct {
		const char *name;
		void (*run)(void);
		int operands; /* at least so many */
	} modes[MODES] = {
		[TRIPS] = { "trips", trips, 3 },
		[CONNECTS] = { "connects", connects, 3 },
		[RATE] = { "rate", rate, 3 },
		[START] = { "start", NULL, 2 },
		[RUN] = { "run", NULL, 1 },
	};
	size_t mode = 0;
	int c;

	while (mode < MODES && argc > 1 && strcmp(argv[1], modes[mode].name))
		mode++;
	if (argc < 2 || mode == MODES)
		usage();
	optind = 2;
	while ((c = getopt(argc, argv, "+c:i:n:p:")) >= 0) {
		switch (c) {
		case 'c': connections = atoi(optarg); break;
		case 'i': idle = atoi(optarg); break;
		case 'n': count = atol(optarg); break;
		case 'p': rest = atoi(optarg); break;
		default: usage();
		}
	}
	argv += optind;
	argc -= optind;
	if (argc < modes[mode].operands || count < 1 || connections < 1)
		usage();
	sock = argv[0];
	if (mode == START)
		repeat(start_once, argv + 1);
	if (mode == RUN)
		repeat(run_once, argv);
	if (!modes[mode].run)
		return 0;
	if ((disk = open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) {
		perror(argv[1]);
		return 3;
	}
	for (c = 2; c < argc; c++)
		add_command(argv[c]);
	while (idle-- > 0)
		joined();
	modes[mode].run();
	return 0;
}
