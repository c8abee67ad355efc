/* See LICENSE file for copyright and license details. */
/*
 * What the kernel and a device can bring back for a command, and what the
 * guest must be told: every row of sg.c's tables, through sg_run(). The
 * linker chooses this file's ioctl() before libc's.
 */
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../../prhelper.h"
#include "check.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum { ALLOC = 64, FAKE_FD = 77 };

struct row {
	const char *name;
	int err;		/* of ioctl() */
	int host, driver, status;
	int sensed;		/* index into senses; 0: no sense */
	int resid;
	int want_status;
	int key, asc, ascq;	/* key -1: the sense must be senses[sensed] */
	int want_len;
};

/* Sense data that a device may send. */
static const uint8_t senses[][SENSE_LEN] = {
	{ 0 },
	{ 0x70, 0, 0x05, 1, 2, 3, 4, 10, 5, 6, 7, 8, 0x26, 0x04, 0, 0xc0, 0,
	  3 },
	{ 0x72, 0x06, 0x2a, 0x03, 0, 0, 0, 8, 2, 6, 1, 2, 3, 4, 5, 6 },
	{ 0x70, 0, 0x01, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x17, 0x01 },
	{ 0x73, 0x00, 0x00, 0x1d },
};

static const struct row rows[] = {
	{ "GOOD, all sent", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64 },
	{ "GOOD, part sent", 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 24 },
	{ "GOOD, nothing sent", 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0 },
	{ "GOOD, residual above the length", 0, 0, 0, 0, 0, 65, 0, 0, 0, 0,
	  0 },
	{ "GOOD, residual below zero", 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0 },

	{ "device: CHECK CONDITION, fixed sense", 0, 0, 0, 2, 1, 64, 2, -1,
	  0, 0, 0 },
	{ "device: CHECK CONDITION, descriptor sense", 0, 0, 0, 2, 2, 64, 2,
	  -1, 0, 0, 0 },
	{ "device: CHECK CONDITION, no residual", 0, 0, 0, 2, 1, 0, 2, -1, 0,
	  0, 0 },
	{ "device: CHECK CONDITION without sense", 0, 0, 0, 2, 0, 64, 2, 0xb,
	  0, 6, 0 },
	{ "device: CONDITION MET", 0, 0, 0, 4, 0, 64, 4, 0, 0, 0, 0 },
	{ "device: BUSY", 0, 0, 0, 8, 0, 64, 8, 0, 0, 0, 0 },
	{ "device: RESERVATION CONFLICT", 0, 0, 0, 0x18, 0, 64, 0x18, 0, 0,
	  0, 0 },
	{ "device: TASK SET FULL", 0, 0, 0, 0x28, 0, 64, 0x28, 0, 0, 0, 0 },
	{ "device: ACA ACTIVE", 0, 0, 0, 0x30, 0, 64, 0x30, 0, 0, 0, 0 },
	{ "device: TASK ABORTED", 0, 0, 0, 0x40, 0, 64, 0x40, 0, 0, 0, 0 },
	{ "device's status beside a host status", 0, 0x10, 0, 2, 1, 64, 2, -1,
	  0, 0, 0 },
	{ "device's conflict beside NEXUS_FAILURE", 0, 0x11, 0, 0x18, 0, 64,
	  0x18, 0, 0, 0, 0 },
	{ "device's status beside DRIVER_SENSE", 0, 0, 8, 2, 2, 64, 2, -1, 0,
	  0, 0 },

	{ "errno ENODEV", ENODEV, 0, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "errno ENXIO", ENXIO, 0, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "errno ENOENT", ENOENT, 0, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "errno EBADF", EBADF, 0, 0, 0, 0, 0, 2, 5, 0x20, 0, 0 },
	{ "errno EPERM", EPERM, 0, 0, 0, 0, 0, 2, 5, 0x20, 0, 0 },
	{ "errno EACCES", EACCES, 0, 0, 0, 0, 0, 2, 5, 0x20, 0, 0 },
	{ "errno EINVAL", EINVAL, 0, 0, 0, 0, 0, 2, 5, 0x20, 0, 0 },
	{ "errno ENOTTY", ENOTTY, 0, 0, 0, 0, 0, 2, 5, 0x20, 0, 0 },
	{ "errno EMSGSIZE", EMSGSIZE, 0, 0, 0, 0, 0, 2, 5, 0x24, 0, 0 },
	{ "errno E2BIG", E2BIG, 0, 0, 0, 0, 0, 2, 5, 0x24, 0, 0 },
	{ "errno ENOMEM", ENOMEM, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0 },
	{ "errno EAGAIN", EAGAIN, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0 },
	{ "errno EBUSY", EBUSY, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0 },
	{ "errno EDOM", EDOM, 0, 0, 0, 0, 0, 0x28, 0, 0, 0, 0 },
	{ "errno EIO", EIO, 0, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "errno EINTR", EINTR, 0, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "errno beside all else", EIO, 1, 6, 8, 1, 0, 2, 0xb, 0, 6, 0 },

	{ "host NO_CONNECT", 0, 0x01, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "host BUS_BUSY", 0, 0x02, 0, 0, 0, 0, 8, 0, 0, 0, 0 },
	{ "host TIME_OUT", 0, 0x03, 0, 0, 0, 0, 2, 0xb, 0x2e, 2, 0 },
	{ "host BAD_TARGET", 0, 0x04, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "host ABORT", 0, 0x05, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "host PARITY", 0, 0x06, 0, 0, 0, 0, 2, 0xb, 0x47, 0, 0 },
	{ "host ERROR", 0, 0x07, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "host RESET", 0, 0x08, 0, 0, 0, 0, 2, 6, 0x29, 0, 0 },
	{ "host BAD_INTR", 0, 0x09, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "host PASSTHROUGH", 0, 0x0a, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "host SOFT_ERROR", 0, 0x0b, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "host IMM_RETRY", 0, 0x0c, 0, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "host REQUEUE", 0, 0x0d, 0, 0, 0, 0, 8, 0, 0, 0, 0 },
	{ "host TRANSPORT_DISRUPTED", 0, 0x0e, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "host TRANSPORT_FAILFAST", 0, 0x0f, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "host TARGET_FAILURE", 0, 0x10, 0, 0, 0, 0, 2, 4, 0x44, 0, 0 },
	{ "host NEXUS_FAILURE", 0, 0x11, 0, 0, 0, 0, 0x18, 0, 0, 0, 0 },
	{ "host ALLOC_FAILURE", 0, 0x12, 0, 0, 0, 0, 2, 7, 0x27, 7, 0 },
	{ "host MEDIUM_ERROR", 0, 0x13, 0, 0, 0, 0, 2, 3, 0x11, 0, 0 },
	{ "host TRANSPORT_MARGINAL", 0, 0x14, 0, 0, 0, 0, 2, 0xb, 8, 0, 0 },
	{ "host status of a later kernel", 0, 0x3f, 0, 0, 0, 0, 2, 0xb, 0, 6,
	  0 },
	{ "host status beside a driver status", 0, 0x01, 6, 0, 0, 0, 2, 0xb,
	  8, 0, 0 },

	{ "driver BUSY", 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0 },
	{ "driver SOFT", 0, 0, 2, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "driver TIMEOUT", 0, 0, 6, 0, 0, 0, 2, 0xb, 0x2e, 2, 0 },
	{ "driver TIMEOUT with a hint", 0, 0, 0x16, 0, 0, 0, 2, 0xb, 0x2e, 2,
	  0 },
	{ "driver HARD", 0, 0, 7, 0, 0, 0, 2, 0xb, 0, 6, 0 },
	{ "driver: a hint alone", 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 64 },
	{ "driver SENSE, an error, no status", 0, 0, 8, 0, 1, 64, 2, -1, 0, 0,
	  0 },
	{ "driver SENSE, descriptor format", 0, 0, 8, 0, 2, 64, 2, -1, 0, 0,
	  0 },
	{ "driver SENSE, recovered error", 0, 0, 8, 0, 3, 0, 0, -1, 0, 0,
	  64 },
	{ "driver SENSE, no sense key", 0, 0, 8, 0, 4, 0, 0, -1, 0, 0, 64 },
	{ "driver SENSE without sense", 0, 0, 8, 0, 0, 64, 2, 0xb, 0, 6, 0 },
};

static const struct row *now_row;
static struct sg_io_hdr seen;

int
ioctl(int fd, ioctl_t cmd, ...)
{
	struct sg_io_hdr *h;
	va_list ap;

	va_start(ap, cmd);
	h = va_arg(ap, struct sg_io_hdr *);
	va_end(ap);
	if (fd != FAKE_FD || cmd != SG_IO) {
		errno = ENOSYS;
		return -1;
	}
	seen = *h;
	h->host_status = (unsigned short)now_row->host;
	h->driver_status = (unsigned short)now_row->driver;
	h->status = (unsigned char)now_row->status;
	h->resid = now_row->resid;
	if (now_row->sensed) {
		memcpy(h->sbp, senses[now_row->sensed], h->mx_sb_len);
		h->sb_len_wr = h->mx_sb_len;
	}
	errno = now_row->err;
	return now_row->err ? -1 : 0;
}

static mode_t node_mode = S_IFBLK;
static unsigned int node_major = 8, node_minor;

int
fstat(int fd, struct stat *st)
{
	if (fd != FAKE_FD) {
		errno = EBADF;
		return -1;
	}
	memset(st, 0, sizeof(*st));
	st->st_mode = node_mode;
	st->st_rdev = makedev(node_major, node_minor);
	return 0;
}

static void
run(const struct row *r, uint8_t opcode, uint8_t action, uint32_t len,
	struct reply *rp)
{
	static uint8_t data[DATA_MAX];
	struct request rq = { .fd = FAKE_FD, .len = len, .data = data };

	now_row = r;
	memset(data, 0xee, sizeof(data));
	rq.cdb[0] = opcode;
	rq.cdb[1] = action;
	memset(rp, 0xdd, sizeof(*rp));
	sg_run(&rq, rp);
}

static int
right(const struct row *r, const struct reply *rp, int in)
{
	uint8_t want[SENSE_LEN] = { 0 };

	if (r->key < 0)
		memcpy(want, senses[r->sensed], SENSE_LEN);
	else if (r->want_status == CHECK_CONDITION) {
		want[0] = 0x70;
		want[2] = (uint8_t)r->key;
		want[7] = 10;
		want[12] = (uint8_t)r->asc;
		want[13] = (uint8_t)r->ascq;
	}
	return rp->status == r->want_status &&
		rp->len == (in ? (uint32_t)r->want_len : 0) &&
		memcmp(rp->sense, want, SENSE_LEN) == 0;
}

/* What is asked of the kernel. */
static void
requests(void)
{
	struct reply rp;

	run(&rows[0], PR_IN, 0, ALLOC, &rp);
	check(seen.interface_id == 'S' && seen.cmd_len == 10 &&
		seen.dxfer_direction == SG_DXFER_FROM_DEV &&
		seen.dxfer_len == ALLOC && seen.mx_sb_len == SENSE_LEN,
		"IN reads, with 10 bytes of CDB");
	check(seen.timeout == SG_TIME, "IN has the usual time");
	check(((uint8_t *)seen.dxferp)[ALLOC - 1] == 0 &&
		((uint8_t *)seen.dxferp)[ALLOC] == 0xee,
		"the buffer of an IN is cleared, and only that");
	run(&rows[0], PR_OUT, 4, 24, &rp);
	check(seen.dxfer_direction == SG_DXFER_TO_DEV && seen.dxfer_len == 24
		&& seen.timeout == SG_TIME, "OUT writes");
	check(((uint8_t *)seen.dxferp)[0] == 0xee,
		"the parameter list of an OUT is left alone");
	run(&rows[0], PR_OUT, 5, 24, &rp);
	check(seen.timeout == SG_ABORT_TIME,
		"PREEMPT AND ABORT has more time");
	run(&rows[0], PR_IN, 0, 0, &rp);
	check(seen.dxfer_direction == SG_DXFER_NONE && rp.len == 0,
		"allocation length 0 moves no data");
	memset(&seen, 0, sizeof(seen));
	run(&rows[0], PR_CLEANUP, 0, 0, &rp);
	check(seen.interface_id == 0 && rp.status == GOOD && rp.len == 0,
		"CLEANUP sends nothing to a plain disk");
}

/* Which descriptors are taken: Linux's devices.txt. */
static void
nodes(void)
{
	static const struct {
		const char *name;
		mode_t mode;
		unsigned int major, minor;
		int taken;
	} t[] = {
		{ "sda", S_IFBLK, 8, 0, 1 },
		{ "sda1", S_IFBLK, 8, 1, 0 },
		{ "sda15", S_IFBLK, 8, 15, 0 },
		{ "sdp", S_IFBLK, 8, 240, 1 },
		{ "sdq", S_IFBLK, 65, 0, 1 },
		{ "sdiv", S_IFBLK, 135, 240, 1 },
		{ "sdiw, with a larger minor", S_IFBLK, 8, 256, 1 },
		{ "a partition of it", S_IFBLK, 8, 257, 0 },
		{ "md0", S_IFBLK, 9, 0, 0 },
		{ "loop0", S_IFBLK, 7, 0, 0 },
		{ "sr0", S_IFBLK, 11, 0, 0 },
		{ "major 64", S_IFBLK, 64, 0, 0 },
		{ "major 72, cciss", S_IFBLK, 72, 0, 0 },
		{ "major 127", S_IFBLK, 127, 0, 0 },
		{ "major 136", S_IFBLK, 136, 0, 0 },
		{ "nvme0n1, blkext", S_IFBLK, 259, 0, 0 },
		{ "dm-0", S_IFBLK, 253, 0, 0 },
		{ "sg0", S_IFCHR, 21, 0, 1 },
		{ "sg17", S_IFCHR, 21, 17, 1 },
		{ "st0", S_IFCHR, 9, 0, 0 },
		{ "null", S_IFCHR, 1, 3, 0 },
		{ "a character device 8:0", S_IFCHR, 8, 0, 0 },
		{ "a block device 21:0", S_IFBLK, 21, 0, 0 },
		{ "a file", S_IFREG, 8, 0, 0 },
		{ "a directory", S_IFDIR, 8, 0, 0 },
		{ "a socket", S_IFSOCK, 8, 0, 0 },
	};
	struct request rq = { .fd = FAKE_FD };
	char name[96];
	size_t i;

	for (i = 0; i < LEN(t); i++) {
		node_mode = t[i].mode;
		node_major = t[i].major;
		node_minor = t[i].minor;
		snprintf(name, sizeof(name), "%s is %s", t[i].name,
			t[i].taken ? "taken" : "not taken");
		check(sg_node(&rq) == t[i].taken, name);
		check(rq.dev == (t[i].mode == S_IFBLK ?
			makedev(t[i].major, t[i].minor) : 0),
			"a block device has its number, nothing else has");
	}
	rq.fd++;
	check(!sg_node(&rq) && !rq.dev, "a closed descriptor is not taken");
}

int
main(void)
{
	struct reply rp;
	char name[96];
	size_t i;

	verbosity = LOG_ERRORS;
	for (i = 0; i < LEN(rows); i++) {
		run(&rows[i], PR_IN, 0, ALLOC, &rp);
		snprintf(name, sizeof(name), "IN: %s", rows[i].name);
		check(right(&rows[i], &rp, 1), name);
		run(&rows[i], PR_OUT, 0, 24, &rp);
		snprintf(name, sizeof(name), "OUT: %s", rows[i].name);
		check(right(&rows[i], &rp, 0), name);
	}
	requests();
	nodes();
	printf("1..%d\n", tests);
	return failed != 0;
}
