/* See LICENSE file for copyright and license details. */
/*
 * Fuzzing of proto.c over a real socket pair: how bytes are cut into segments,
 * which of them carry descriptors, and what kind of end there is. Time is
 * virtual: it passes when nothing more comes, and nobody waits for it.
 *
 * An input is a byte of options and then, from the front, what the client
 * does; from the end what becomes of our replies. It is played while prhelper
 * reads, up to the next silence. What was really sent is written down, and
 * each outcome has to be one that this allows.
 */
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sanitizer/asan_interface.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "fuzz.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	SENT_MAX = 1 << 17,
	FDS_MAX = 64, /* that are sent */
	AT_ONCE = 4,  /* ... with one segment */
	FD_MAX = 1024,
	REQUESTS_MAX = 8,
	CALLS_MAX = 10000,
};

/* The byte of options. */
enum {
	GREETS = 1,  /* the client's feature bits are part of it */
	STARVED = 2, /* prhelper has no descriptor left */
	LOGS = 4,    /* -v */
	NO_WAIT = 8, /* replies are sent as when the helper ends */
};

/* What the client does next: three bits; two or three say which descriptor. */
enum { SEND, SEND_ONE, SEND_SOME, SILENCE, SHUT, CLOSE, INTERRUPT, SEND_LONG };

/* What becomes of a reply, a byte each. */
enum { ALL, PART, LATER, INTERRUPTED, REFUSED, OUTCOMES };

/* Kinds of descriptors; who has one of the first two may change a disk. */
enum { WRITABLE = 2 };
static int kinds[8];

static struct input in;
static unsigned int options;
static int client, server; /* -1: closed */
static int ended;          /* no more will come */
static int64_t clock_ms;
static int inside; /* it is proto.c that calls */
static int raised; /* errno of the next recvmsg() */
static int calls;  /* of recvmsg() and sendmsg() */

/* What was sent, and how much of it was received. */
static uint8_t sent[SENT_MAX];
static size_t total, eaten;
static struct {
	size_t at; /* the first byte of its segment */
	int kind;
} fds[FDS_MAX];
static int nfds;

static uint8_t held[FD_MAX]; /* received, and not closed */
static int holds;

static struct {
	uint8_t data[DATA_MAX];
} payload;

int64_t
now(void)
{
	return clock_ms;
}

/* Nobody reads prhelper's messages. */
int
poll(struct pollfd *p, nfds_t n, int ms)
{
	(void)p;
	(void)n;
	(void)ms;
	return 0;
}

int
close(int fd)
{
	if (inside) {
		must(fd >= 0 && fd < FD_MAX && held[fd],
		    "only what was received is closed, once");
		held[fd] = 0;
		holds--;
	}
	return (int)syscall(SYS_close, fd);
}

/* A segment of the client's with n descriptors from this kind on. */
static void
send_segment(size_t len, unsigned int kind, int n)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(
	    AT_ONCE * sizeof(int))];
	struct iovec iov = { sent + total, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c = (struct cmsghdr *)control;
	int i;

	if (n > 0) {
		memset(control, 0, sizeof(control));
		m.msg_control = control;
		m.msg_controllen = CMSG_LEN((size_t)n * sizeof(int));
		c->cmsg_len = m.msg_controllen;
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
	}
	for (i = 0; i < n; i++)
		memcpy(CMSG_DATA(c) + (size_t)i * sizeof(int),
		    &kinds[(kind + (unsigned int)i) % LEN(kinds)],
		    sizeof(int));
	if (len == 0 || nfds + n > FDS_MAX || client < 0 || ended ||
	    syscall(SYS_sendmsg, client, &m, MSG_NOSIGNAL | MSG_DONTWAIT) !=
	    (long)len)
		return;
	for (i = 0; i < n; i++) {
		fds[nfds].at = total;
		fds[nfds++].kind = (int)((kind + (unsigned int)i) %
		    LEN(kinds));
	}
	total += len;
}

/* Bytes of the input; behind its end there are none. */
static size_t
fill(size_t len)
{
	size_t left = (size_t)(in.end - in.p);

	if (len > left)
		len = left;
	if (len > SENT_MAX - total)
		len = SENT_MAX - total;
	memcpy(sent + total, in.p, len);
	in.p += len;
	return len;
}

/* One thing that the client does; 0: it is silent for now. */
static int
act(void)
{
	unsigned int op = byte(&in), which = op >> 3;
	size_t len;

	switch (op % 8) {
	case SEND: send_segment(fill(byte(&in)), 0, 0); break;
	case SEND_ONE: send_segment(fill(byte(&in)), which, 1); break;
	case SEND_SOME:
		send_segment(fill(byte(&in)), which, 1 + (int)which % AT_ONCE);
		break;
	case SEND_LONG:
		len = (size_t)byte(&in) << 6;
		if (len > SENT_MAX - total)
			len = SENT_MAX - total;
		memset(sent + total, (int)which, len);
		send_segment(len, 0, 0);
		break;
	case SHUT:
		ended |= client >= 0;
		shutdown(client, SHUT_WR);
		break;
	case CLOSE:
		if (client >= 0)
			syscall(SYS_close, client);
		client = -1;
		ended = 1;
		break;
	case INTERRUPT: raised = EINTR; return 0;
	default: return 0;
	}
	return 1;
}

static void
note_fds(struct msghdr *m)
{
	struct cmsghdr *c;
	size_t i;
	int fd;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (i = CMSG_LEN(0); i < c->cmsg_len; i += sizeof(fd)) {
			memcpy(&fd, (char *)c + i, sizeof(fd));
			must(fd >= 0 && fd < FD_MAX, "a descriptor is small");
			held[fd] = 1;
			holds++;
		}
	}
}

static void
starve(int yes)
{
	const struct rlimit rl = { yes ? 3 : FD_MAX, FD_MAX };

	if (options & STARVED)
		setrlimit(RLIMIT_NOFILE, &rl);
}

/* What waits as long as SO_RCVTIMEO says does not wait here. */
ssize_t
recvmsg(int sock, struct msghdr *m, int flags)
{
	ssize_t n;

	must(++calls < CALLS_MAX, "it comes to an end");
	must(sock == server, "prhelper reads from its client");
	must(flags & MSG_CMSG_CLOEXEC, "no descriptor is inherited");
	must(m->msg_iovlen == 1 &&
	    !__asan_region_is_poisoned(m->msg_iov->iov_base,
		m->msg_iov->iov_len), "there is room for what is read");
	while (in.p < in.end && act())
		;
	if (raised) {
		errno = raised;
		raised = 0;
		return -1;
	}
	starve(1);
	n = syscall(SYS_recvmsg, sock, m, flags | MSG_DONTWAIT);
	starve(0);
	if (n >= 0)
		note_fds(m);
	if (n > 0) {
		must(eaten + (size_t)n <= total, "only what was sent comes");
		eaten += (size_t)n;
	}
	if (n < 0 || (n > 0 && (size_t)n < m->msg_iov->iov_len &&
	    m->msg_controllen == 0))
		clock_ms += QUIET_TIME;
	return n;
}

/* It is sent, or a part of it; or not, when the client does not read. */
ssize_t
sendmsg(int sock, const struct msghdr *m, int flags)
{
	struct iovec iov[2];
	struct msghdr part = { .msg_iov = iov, .msg_iovlen = 2 };
	size_t len;

	must(++calls < CALLS_MAX, "it comes to an end");
	must(sock == server, "prhelper writes to its client");
	must(flags & MSG_NOSIGNAL, "no signal when the client has gone");
	must(m->msg_iovlen == 2, "there are a head and a payload");
	must(!__asan_region_is_poisoned(m->msg_iov[0].iov_base,
	    m->msg_iov[0].iov_len) &&
	    !__asan_region_is_poisoned(m->msg_iov[1].iov_base,
	    m->msg_iov[1].iov_len), "what is sent is there");
	memcpy(iov, m->msg_iov, sizeof(iov));
	switch (last_byte(&in) % OUTCOMES) {
	case ALL: break;
	case PART:
		clock_ms += flags & MSG_DONTWAIT ? 0 : QUIET_TIME;
		len = last_byte(&in) << 5 | last_byte(&in);
		if (iov[0].iov_len > len)
			iov[0].iov_len = len;
		len -= iov[0].iov_len;
		if (iov[1].iov_len > len)
			iov[1].iov_len = len;
		break;
	case LATER:
		clock_ms += flags & MSG_DONTWAIT ? 0 : QUIET_TIME;
		errno = EAGAIN;
		return -1;
	case INTERRUPTED: errno = EINTR; return -1;
	default: errno = EPIPE; return -1;
	}
	if (iov[0].iov_len + iov[1].iov_len == 0) {
		errno = EAGAIN;
		return -1;
	}
	return syscall(SYS_sendmsg, sock, &part, flags | MSG_DONTWAIT);
}

/* How many descriptors came with bytes from .. to. */
UNCOUNTED static int
fds_in(size_t from, size_t to, int *kind)
{
	int i, n = 0;

	for (i = 0; i < nfds; i++) {
		if (fds[i].at < from || fds[i].at >= to)
			continue;
		if (n++ == 0)
			*kind = fds[i].kind;
	}
	return n;
}

/* How much follows a CDB; -1: it is none of ours. */
static long
params_of(const uint8_t *cdb)
{
	unsigned long len = get32(cdb + 5);

	if (cdb[0] == PR_CLEANUP || cdb[0] == PR_IN)
		return 0;
	return cdb[0] != PR_OUT || len > DATA_MAX ? -1 : (long)len;
}

static uint32_t
alloc_of(const uint8_t *cdb)
{
	return cdb[0] == PR_IN ? (uint32_t)(cdb[7] << 8 | cdb[8]) : 0;
}

/* Is an outcome one that the bytes from start on allow? */
UNCOUNTED static void
judge_read(int io, size_t start, int64_t began, const struct request *rq)
{
	const uint8_t *cdb = sent + start;
	size_t n = eaten - start, head = n < CDB_LEN ? n : CDB_LEN;
	int kind, in_head = fds_in(start, start + head, &kind);
	int behind = fds_in(start + head, eaten, &kind);
	long params = n < CDB_LEN ? 0 : params_of(cdb);
	int lawful = params >= 0 && alloc_of(cdb) <= DATA_MAX && !behind;

	must(n <= CDB_LEN + (size_t)(params > 0 ? params : 0),
	    "no byte of the next request is read");
	must(clock_ms - began <= IO_TIME + 2 * QUIET_TIME,
	    "it does not take longer than it may");
	must(holds == (io == IO_DONE), "no descriptor is left, or one");
	must((io == IO_DONE) == (rq->fd >= 0), "it is the caller's");
	switch (io) {
	case IO_DONE:
	case IO_STARVED:
		must(n == CDB_LEN + (size_t)params && lawful,
		    "a request is whole, and one of ours");
		must(io == IO_DONE ? held[rq->fd] && in_head == 1 :
				     options & STARVED && in_head > 0,
		    "it has one descriptor");
		must(!memcmp(rq->cdb, cdb, CDB_LEN) &&
		    rq->len == (uint32_t)params + alloc_of(cdb) &&
		    !memcmp(rq->data, cdb + CDB_LEN, (size_t)params),
		    "it is what was sent");
		break;
	case IO_QUIET: must(n == 0, "who is quiet sends nothing"); break;
	case IO_GONE:
		must(ended && eaten == total, "only who has gone is gone");
		break;
	case IO_LATE:
		must(clock_ms - began >= IO_TIME, "who is late had his time");
		break;
	default:
		must(io == IO_BROKEN, "it is one of the outcomes");
		must(options & STARVED || in_head > 1 || behind || !lawful ||
		    (n >= CDB_LEN && in_head == 0),
		    "what is refused is against the protocol");
	}
}

static int
read_features(void)
{
	uint8_t greeting[FEATURES_LEN + 1];
	int io, kind, n;

	must(proto_greet(server) == (client < 0 ? IO_GONE : IO_DONE),
	    "the greeting is sent");
	if (client >= 0)
		must(recv(client, greeting, sizeof(greeting), MSG_DONTWAIT) ==
		    FEATURES_LEN && get32(greeting) == 1, "it is our features");
	inside = 1;
	io = proto_features(server, clock_ms + IO_TIME);
	inside = 0;
	n = fds_in(0, eaten, &kind);
	must(holds == 0, "no descriptor is left");
	must(eaten <= FEATURES_LEN, "no byte of the first request is read");
	must(io != IO_QUIET, "who does not greet is not quiet, but late");
	if (io == IO_DONE)
		must(eaten == FEATURES_LEN && get32(sent) <= 1 && n == 0,
		    "features are whole, and some that we know");
	if (io == IO_BROKEN)
		must(n > 0 || (eaten == FEATURES_LEN && get32(sent) > 1),
		    "what is refused is against the protocol");
	if (io == IO_LATE)
		must(clock_ms >= IO_TIME, "who is late had his time");
	if (io == IO_GONE)
		must(ended && eaten == total, "only who has gone is gone");
	must(clock_ms <= IO_TIME + QUIET_TIME, "a greeting has its time");
	return io;
}

/* What the client gets is what was said, or the begin of it. */
static void
reply(struct request *rq, struct reply *rp)
{
	static uint8_t got[REPLY_LEN + DATA_MAX + 1];
	int io, flags = options & NO_WAIT ? MSG_DONTWAIT : 0;
	int64_t began = clock_ms;
	ssize_t n;

	inside = 1;
	io = proto_write(server, rq, rp, flags);
	inside = 0;
	n = client < 0 ? 0 : recv(client, got, sizeof(got), MSG_DONTWAIT);
	if (n < 0)
		n = 0;
	if (client >= 0 && io == IO_DONE)
		must(n == REPLY_LEN + (ssize_t)rp->len, "a reply is whole");
	must(n <= REPLY_LEN + (ssize_t)rp->len, "and no longer");
	if (n >= REPLY_LEN)
		must(get32(got) == rp->status && get32(got + 4) == rp->len &&
		    !memcmp(got + 8, rp->sense, SENSE_LEN) &&
		    !memcmp(got + REPLY_LEN, rq->data, (size_t)n - REPLY_LEN),
		    "it is what was said");
	must(io == IO_DONE || io == IO_GONE || io == IO_LATE,
	    "it is one of the outcomes");
	must(io != IO_LATE || flags || clock_ms - began >= IO_TIME,
	    "who is late had his time");
	must(clock_ms - began <= (flags ? 0 : IO_TIME + 2 * QUIET_TIME),
	    "it does not take longer than it may");
}

/* What a device says, at most; or a refusal. */
static void
answer(struct request *rq, size_t start)
{
	struct reply rp;
	int i, kind = -1, refused;

	memset(&rp, 0xdd, sizeof(rp));
	fds_in(start, start + CDB_LEN, &kind);
	refused = rq->fd >= 0 && proto_check(rq, &rp) < 0;
	if (rq->fd >= 0)
		must(refused == (rq->cdb[0] != PR_IN && kind >= WRITABLE),
		    "only who may write changes something");
	if (refused) {
		must(rp.status == CHECK_CONDITION && rp.len == 0 &&
		    proto_sense_of(rp.sense) == INVALID_OPCODE,
		    "a refusal says so");
	} else {
		proto_status(&rp, (uint8_t)last_byte(&in));
		rp.len = last_byte(&in) << 5 | last_byte(&in);
		if (rq->cdb[0] != PR_IN || rp.len > rq->len)
			rp.len = rq->cdb[0] == PR_IN ? rq->len : 0;
		for (i = 0; i < 4; i++)
			rp.sense[i * 5] = (uint8_t)last_byte(&in);
		must(proto_sense_of(rp.sense) <= 0xfffff, "a sense key is one");
	}
	proto_log(rq, &rp, 1, 2);
	if (rq->fd >= 0) {
		inside = 1;
		close(rq->fd);
		inside = 0;
	}
	reply(rq, &rp);
}

static void
requests(void)
{
	struct request rq = { .data = payload.data };
	int i, io = IO_DONE;
	int64_t began;
	size_t start;

	for (i = 0; i < REQUESTS_MAX; i++) {
		start = eaten;
		began = clock_ms;
		inside = 1;
		io = proto_read(server, &rq);
		inside = 0;
		must(proto_strerror(io)[0], "an outcome has words");
		judge_read(io, start, began, &rq);
		if (io == IO_DONE || io == IO_STARVED)
			answer(&rq, start);
		else if (io != IO_QUIET || in.p == in.end)
			break;
	}
}

static int
must_open(int fd)
{
	must(fd >= 0, "a descriptor can be had");
	return fd;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int pair[2];

	(void)argc;
	(void)argv;
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "a socket pair");
	kinds[0] = must_open(open("/dev/null", O_RDWR));
	kinds[1] = must_open(open("/dev/null", O_WRONLY));
	kinds[2] = must_open(open("/dev/null", O_RDONLY));
	kinds[3] = must_open(open("/dev/zero", O_PATH));
	kinds[4] = must_open(open("/", O_RDONLY | O_DIRECTORY));
	kinds[5] = must_open(open("/dev/null", O_PATH | O_RDWR));
	kinds[6] = must_open(open("/dev/full", O_RDONLY | O_NONBLOCK));
	kinds[7] = must_open(open("/proc/self/status", O_RDONLY));
	syscall(SYS_close, pair[0]);
	syscall(SYS_close, pair[1]);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int pair[2];

	in.p = data;
	in.end = data + size;
	options = byte(&in);
	verbosity = options & LOGS ? LOG_VERBOSE : LOG_ERRORS;
	total = eaten = 0;
	nfds = holds = ended = raised = calls = 0;
	clock_ms = 0;
	memset(held, 0, sizeof(held));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	client = pair[0];
	server = pair[1];
	if (!(options & GREETS) || read_features() == IO_DONE)
		requests();
	if (client >= 0)
		syscall(SYS_close, client);
	syscall(SYS_close, server);
	must(holds == 0, "all descriptors are closed");
	return 0;
}
