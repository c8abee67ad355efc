/* See LICENSE file for copyright and license details. */
/*
 * The wire: bytes to a request, a reply to bytes, the descriptor between
 * them, and what can be said of a request without asking a device. The
 * protocol is QEMU's docs/interop/pr-helper.rst. No threads, no device I/O.
 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "prhelper.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	FEATURE_CLEANUP = 1, /* bit 0 */
	FEATURES = FEATURE_CLEANUP,
	FIXED_SENSE = 0x70,      /* response code: current, fixed format */
	DESCRIPTOR_SENSE = 0x72, /* and 73h */
	SENSE_KEY_MASK = 0x0f,
	FIXED_EXTRA = 10,  /* additional sense length, to byte 17 */
	OUT_KEYS_LEN = 16, /* of a parameter list: the two keys */
};

const char *
proto_strerror(int io)
{
	static const char *const text[] = {
		[IO_DONE] = "done",
		[IO_QUIET] = "quiet",
		[IO_GONE] = "closed by the peer",
		[IO_LATE] = "too slow",
		[IO_BROKEN] = "broken protocol",
		[IO_STARVED] = "descriptor not received",
	};

	return text[io];
}

static void
drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/*
 * Take the descriptors out of a message. The first goes to *fd if that is
 * still empty; any other, and any at all where fd is NULL, is closed and
 * breaks the protocol.
 */
static int
take_fds(struct msghdr *m, int *fd)
{
	struct cmsghdr *c;
	unsigned char *p;
	size_t i, n;
	int got, count = 0, broken = 0;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		p = CMSG_DATA(c);
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(got);
		for (i = 0; i < n; i++) {
			memcpy(&got, p + i * sizeof(got), sizeof(got));
			count++;
			if (fd && *fd < 0) {
				*fd = got;
			} else {
				close(got);
				broken = 1;
			}
		}
	}
	if (broken)
		return IO_BROKEN;
	if (!(m->msg_flags & MSG_CTRUNC))
		return IO_DONE;
	/* Some did not fit: one that fits was refused by our own limits. */
	return fd && count == 0 ? IO_STARVED : IO_BROKEN;
}

/*
 * Read exactly len bytes. *deadline is set when the first of them came and
 * none was set before. MSG_WAITALL still returns at the end of the segment
 * that carries a descriptor, and after SO_RCVTIMEO.
 */
static int
read_all(int sock, uint8_t *buf, size_t len, int *fd, int64_t *deadline)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { buf, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;
	int io, result = IO_DONE;

	while (iov.iov_len > 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		n = recvmsg(sock, &m, MSG_WAITALL | MSG_CMSG_CLOEXEC);
		if (n == 0)
			return IO_GONE;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return IO_GONE;
		if (n < 0 && !*deadline)
			return IO_QUIET;
		if (n > 0) {
			if ((io = take_fds(&m, fd)) == IO_BROKEN)
				return io;
			if (io == IO_STARVED)
				result = io;
			iov.iov_base = (uint8_t *)iov.iov_base + n;
			iov.iov_len -= (size_t)n;
		}
		if (iov.iov_len == 0)
			break;
		if (!*deadline)
			*deadline = now() + IO_TIME;
		else if (now() >= *deadline)
			return IO_LATE;
	}
	return result;
}

int
proto_greet(int sock)
{
	uint8_t features[FEATURES_LEN];
	ssize_t n;

	put32(features, FEATURES);
	/* Nothing was sent on this socket yet: it fits or the peer is gone. */
	n = send(sock, features, sizeof(features), MSG_DONTWAIT | MSG_NOSIGNAL);
	return n == sizeof(features) ? IO_DONE : IO_GONE;
}

int
proto_features(int sock, int64_t deadline)
{
	uint8_t features[FEATURES_LEN];
	int io;

	io = read_all(sock, features, sizeof(features), NULL, &deadline);
	if (io == IO_DONE && (get32(features) & ~(uint32_t)FEATURES))
		return IO_BROKEN;
	return io;
}

/*
 * The length that a CDB names, or -1 if it is none of ours: bytes 7 to 8 of
 * an IN, 5 to 8 of an OUT.
 */
static int
data_len(const uint8_t *cdb)
{
	uint32_t len;

	switch (cdb[0]) {
	case PR_IN: len = (uint32_t)cdb[7] << 8 | cdb[8]; break;
	case PR_OUT: len = get32(cdb + 5); break;
	case PR_CLEANUP: len = 0; break;
	default: return -1;
	}
	return len > DATA_MAX ? -1 : (int)len;
}

int
proto_read(int sock, struct request *rq)
{
	int64_t deadline = 0;
	int io, params, len;

	rq->fd = -1;
	io = read_all(sock, rq->cdb, CDB_LEN, &rq->fd, &deadline);
	if (io != IO_DONE && io != IO_STARVED) {
		drop(&rq->fd);
		return io;
	}
	len = data_len(rq->cdb);
	if (len < 0 || (rq->fd < 0 && io != IO_STARVED)) {
		drop(&rq->fd);
		return IO_BROKEN;
	}
	rq->len = (uint32_t)len;
	if (io == IO_STARVED)
		drop(&rq->fd);
	if (rq->cdb[0] != PR_OUT || len == 0)
		return io;
	if (!deadline)
		deadline = now() + IO_TIME;
	params = read_all(sock, rq->data, rq->len, NULL, &deadline);
	if (params != IO_DONE) {
		drop(&rq->fd);
		return params;
	}
	return io;
}

void
proto_status(struct reply *rp, uint8_t status)
{
	memset(rp, 0, sizeof(*rp));
	rp->status = status;
}

void
proto_sense(struct reply *rp, uint32_t sense)
{
	proto_status(rp, CHECK_CONDITION);
	rp->sense[0] = FIXED_SENSE;
	rp->sense[2] = (uint8_t)(sense >> 16);
	rp->sense[7] = FIXED_EXTRA;
	rp->sense[12] = (uint8_t)(sense >> 8);
	rp->sense[13] = (uint8_t)sense;
}

uint32_t
proto_sense_of(const uint8_t *sense)
{
	if ((sense[0] & 0x7f) >= DESCRIPTOR_SENSE)
		return (uint32_t)(sense[1] & SENSE_KEY_MASK) << 16 |
		    (uint32_t)sense[2] << 8 | sense[3];
	return (uint32_t)(sense[2] & SENSE_KEY_MASK) << 16 |
	    (uint32_t)sense[12] << 8 | sense[13];
}

void
proto_refuse(const struct request *rq, struct reply *rp, const char *why)
{
	trace(TRACE_REFUSED, "fd=%d %s", rq->fd, why);
	proto_sense(rp, INVALID_OPCODE);
}

int
proto_check(const struct request *rq, struct reply *rp)
{
	int flags;

	/* Only who could write to the disk may change its reservations. */
	if (rq->cdb[0] == PR_IN)
		return 0;
	flags = fcntl(rq->fd, F_GETFL);
	if (flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != O_RDONLY)
		return 0;
	proto_refuse(rq, rp, "read-only");
	return -1;
}

/* Leave out the n bytes that were sent. */
static void
advance(struct iovec *iov, size_t count, ssize_t n)
{
	size_t i, part;

	for (i = 0; n > 0 && i < count; i++) {
		part = iov[i].iov_len;
		if ((size_t)n < part)
			part = (size_t)n;
		iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
		iov[i].iov_len -= part;
		n -= (ssize_t)part;
	}
}

int
proto_write(
    int sock, const struct request *rq, const struct reply *rp, int flags)
{
	uint8_t head[REPLY_LEN];
	struct iovec iov[2] = { { head, REPLY_LEN }, { rq->data, rp->len } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };
	int64_t deadline = 0;
	size_t left = REPLY_LEN + rp->len;
	ssize_t n;

	put32(head, rp->status);
	put32(head + 4, rp->len);
	memcpy(head + 8, rp->sense, SENSE_LEN);
	for (;;) {
		n = sendmsg(sock, &m, flags | MSG_NOSIGNAL);
		if (n == (ssize_t)left)
			return IO_DONE;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return IO_GONE;
		/* The peer does not read. Who must not wait may not stay. */
		if (flags & MSG_DONTWAIT)
			return IO_LATE;
		if (!deadline)
			deadline = now() + IO_TIME;
		else if (now() >= deadline)
			return IO_LATE;
		left -= n > 0 ? (size_t)n : 0;
		advance(iov, LEN(iov), n);
	}
}

/* The disk as people call it, or its number where there is no sysfs. */
static void
disk_name(int fd, char *name, size_t size)
{
	char path[64], link[256], *base;
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0 ||
	    (!S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))) {
		snprintf(name, size, "no device");
		return;
	}
	snprintf(path, sizeof(path), "/sys/dev/%s/%u:%u",
	    S_ISBLK(st.st_mode) ? "block" : "char", major(st.st_rdev),
	    minor(st.st_rdev));
	n = readlink(path, link, sizeof(link) - 1);
	link[n > 0 ? n : 0] = '\0';
	base = strrchr(link, '/');
	if (base)
		snprintf(name, size, "%.32s", base + 1);
	else
		snprintf(
		    name, size, "%u:%u", major(st.st_rdev), minor(st.st_rdev));
}

const char *
proto_name(const uint8_t *cdb)
{
	/* clang-format off */
	static const char ins[][24] = {
		"READ KEYS", "READ RESERVATION", "REPORT CAPABILITIES",
		"READ FULL STATUS",
	};
	static const char outs[][36] = {
		"REGISTER", "RESERVE", "RELEASE", "CLEAR", "PREEMPT",
		"PREEMPT AND ABORT", "REGISTER AND IGNORE EXISTING KEY",
		"REGISTER AND MOVE", "REPLACE LOST RESERVATION",
	};
	/* clang-format on */
	unsigned int action = cdb[1] & ACTION_MASK;

	switch (cdb[0]) {
	case TEST_UNIT_READY: return "TEST UNIT READY";
	case PR_CLEANUP: return "CLEANUP";
	case PR_IN: return action < LEN(ins) ? ins[action] : "unknown IN";
	default: return action < LEN(outs) ? outs[action] : "unknown OUT";
	}
}

void
proto_log(
    const struct request *rq, const struct reply *rp, pid_t pid, uid_t uid)
{
	uint64_t key = 0, service_key = 0;
	char name[40];

	if (verbosity < LOG_VERBOSE || rq->cdb[0] != PR_OUT)
		return;
	disk_name(rq->fd, name, sizeof(name));
	if (rq->len >= OUT_KEYS_LEN) {
		key = get64(rq->data);
		service_key = get64(rq->data + 8);
	}
	say(LOG_VERBOSE,
	    "pid %ld uid %lu %s: %s (%02xh) type %u "
	    "key 0x%llx service action key 0x%llx: status %02xh",
	    (long)pid, (unsigned long)uid, name, proto_name(rq->cdb),
	    rq->cdb[1] & ACTION_MASK, rq->cdb[2] & TYPE_MASK,
	    (unsigned long long)key, (unsigned long long)service_key,
	    rp->status);
}
