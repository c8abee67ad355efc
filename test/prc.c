/* See LICENSE file for copyright and license details. */
/*
 * prc: sends commands to a helper as QEMU does, one line of answer for each.
 *
 *	prc [-qrs] [-n N] [-o ro|rw|path] SOCKET DEVICE [CDBHEX[:PARAMHEX]]...
 *
 * SOCKET "-": no helper, the commands go to the device with SG_IO.
 * Without a command on the command line each line of standard input is one.
 * The answer is SCSI status, sense key/code/qualifier or "-", payload or "-".
 *	-n	repeat the commands N times
 *	-o	how the device is opened; read-write if not told
 *	-q	print the last line only
 *	-r	be a guest while the helper is restarted: connect again as often
 *		as QEMU does; print "lost" where the guest would be told of an
 *		error, and repeat that command; SIGTERM ends it after a round
 *	-s	add the 96 bytes of sense data as they came
 * Exit status: 1 "closed" was printed, 2 "broken reply" was printed, 3 no
 * connection, no device or wrong use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

struct command {
	unsigned char cdb[CDBLEN];
	unsigned char param[DATAMAX];
	size_t len;
};

enum {
	ATTEMPTS = 5,	/* PR_MAX_RECONNECT_ATTEMPTS of QEMU */
	PAUSE = 20000,	/* between the commands of -r, in microseconds: so
			   that others get the processor, too */
};

static int quiet, raw, restarts;
static volatile sig_atomic_t ended;
static const char *helper;
static char line[LINEMAX];

static void
die(const char *fmt, ...)
{
	va_list ap;

	fputs("prc: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(3);
}

static void
usage(void)
{
	die("usage: prc [-qrs] [-n N] [-o ro|rw|path] SOCKET DEVICE "
	    "[CDBHEX[:PARAMHEX]]...");
}

static int
open_device(const char *path, const char *how)
{
	static const struct {
		const char *name;
		int flags;
	} modes[] = {
		{ "rw", O_RDWR }, { "ro", O_RDONLY }, { "path", O_PATH },
	};
	size_t i;
	int fd;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(how, modes[i].name))
			continue;
		fd = open(path, modes[i].flags | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			die("%s: %s", path, strerror(errno));
		return fd;
	}
	usage();
	return -1;
}

static void
parse(struct command *c, const char *s)
{
	size_t n = strcspn(s, ":");
	long len = 0;

	memset(c->cdb, 0, CDBLEN);
	if (unhex(c->cdb, CDBLEN, s, n) < 1)
		die("bad command: %s", s);
	if (s[n] == ':')
		len = unhex(c->param, DATAMAX, s + n + 1, strlen(s + n + 1));
	if (len < 0)
		die("bad parameter list: %s", s);
	c->len = (size_t)len;
	if (c->len != (c->cdb[0] == 0x5f ? cdb_len(c->cdb) : 0))
		die("parameter list has %ld bytes: %s", len, s);
}

static void
say(const char *text)
{
	puts(text);
	fflush(stdout);
}

static void
end(int sig)
{
	(void)sig;
	ended = 1;
}

static void
hang_up(int *sock)
{
	if (*sock >= 0)
		close(*sock);
	*sock = -1;
}

static void
finish(const char *why, int status)
{
	puts(why);
	exit(status);
}

static void
through_helper(int sock, int dev, struct command *c, struct answer *a)
{
	if (sendfds(sock, c->cdb, CDBLEN, &dev, 1) < 0 ||
	    writen(sock, c->param, c->len) < 0)
		finish("closed", 1);
	switch (readanswer(sock, c->cdb, a, -1)) {
	case -1:
		finish("closed", 1);
		break;
	case -2:
		finish("broken reply", 2);
		break;
	}
}

/*
 * As QEMU's pr-manager-helper sends a command: the connection may be made
 * anew until the CDB is out, with a pause after an attempt that failed. -1:
 * the guest gets an error.
 */
static int
as_qemu(int *sock, int dev, struct command *c, struct answer *a)
{
	int i, sent = 0;

	for (i = 0; i < ATTEMPTS && !sent; i++) {
		if (*sock < 0 && handshake(*sock = dial(helper), -1) < 0) {
			hang_up(sock);
			sleep(1);
			continue;
		}
		sent = sendfds(*sock, c->cdb, CDBLEN, &dev, 1) == 0;
		if (!sent)
			hang_up(sock);
	}
	if (sent && writen(*sock, c->param, c->len) == 0 &&
	    readanswer(*sock, c->cdb, a, -1) == 0)
		return 0;
	hang_up(sock);
	return -1;
}

static void
run(int *sock, int dev, const char *text)
{
	struct command c;
	struct answer a;

	parse(&c, text);
	if (*helper == '-')
		direct(dev, c.cdb, c.param, c.len, &a);
	else if (!restarts)
		through_helper(*sock, dev, &c, &a);
	else
		while (usleep(PAUSE), as_qemu(sock, dev, &c, &a) < 0)
			say("lost");
	answer_line(line, &a, raw);
	if (!quiet)
		say(line);
}

static void
run_lines(int *sock, int dev)
{
	char in[2 * (CDBLEN + DATAMAX) + 3];

	while (fgets(in, sizeof(in), stdin)) {
		in[strcspn(in, "\n")] = '\0';
		if (*in)
			run(sock, dev, in);
	}
}

int
main(int argc, char *argv[])
{
	const char *how = "rw";
	long n, times = 1;
	int i, opt, sock = -1, dev;

	while ((opt = getopt(argc, argv, "n:o:qrs")) != -1) {
		switch (opt) {
		case 'n':
			times = atol(optarg);
			break;
		case 'o':
			how = optarg;
			break;
		case 'q':
			quiet = 1;
			break;
		case 'r':
			restarts = 1;
			break;
		case 's':
			raw = 1;
			break;
		default:
			usage();
		}
	}
	if (argc - optind < 2)
		usage();
	helper = argv[optind];
	if (*helper != '-' && (sock = dial(helper)) < 0)
		die("%s: %s", helper, strerror(errno));
	dev = open_device(argv[optind + 1], how);
	if (sock >= 0 && handshake(sock, -1) < 0)
		finish("closed", 1);
	if (restarts)
		signal(SIGTERM, end);
	if (argc - optind == 2)
		run_lines(&sock, dev);
	for (n = 0; n < times && !ended; n++)
		for (i = optind + 2; i < argc; i++)
			run(&sock, dev, argv[i]);
	if (quiet && *line)
		puts(line);
	return 0;
}
