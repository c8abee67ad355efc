/* See LICENSE file for copyright and license details. */
/*
 * The only ioctl(SG_IO): one command to one device, and one table that says
 * what is answered for what came back. GOOD is never made up here.
 */
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <scsi/sg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "prhelper.h"

enum {
	SG_MAJOR = 21,  /* Linux devices.txt: generic SCSI */
	SD_MINORS = 16, /* sd: the disk, then its partitions */
	PREEMPT_AND_ABORT = 5,
	DRIVER_MASK = 0x0f,  /* the rest of driver_status are hints */
	DRIVER_SENSE = 0x08, /* sense is valid; older kernels */
	SENSE_KEY_MASK = 0x0f,
	RECOVERED_ERROR = 1,     /* the highest key that is a success */
	DESCRIPTOR_SENSE = 0x72, /* and 73h: the key is in byte 1 */
	LAST = -1,               /* a table's row for values that have none */
};

/* clang-format off */
/* A status, and with CHECK CONDITION the sense that goes with it. */
struct fault {
	int value;
	uint8_t status;
	uint32_t sense;
};

/* SG_IO itself failed: the command was not sent. */
static const struct fault errnos[] = {
	{ ENODEV,	CHECK_CONDITION, LU_COMM_FAILURE },
	{ ENXIO,	CHECK_CONDITION, LU_COMM_FAILURE },
	{ ENOENT,	CHECK_CONDITION, LU_COMM_FAILURE },
	{ EBADF,	CHECK_CONDITION, INVALID_OPCODE },	/* O_PATH */
	{ EPERM,	CHECK_CONDITION, INVALID_OPCODE },
	{ EACCES,	CHECK_CONDITION, INVALID_OPCODE },
	{ EINVAL,	CHECK_CONDITION, INVALID_OPCODE },
	{ ENOTTY,	CHECK_CONDITION, INVALID_OPCODE },
	{ EMSGSIZE,	CHECK_CONDITION, INVALID_FIELD },
	{ E2BIG,	CHECK_CONDITION, INVALID_FIELD },
	{ ENOMEM,	BUSY, 0 },
	{ EAGAIN,	BUSY, 0 },
	{ EBUSY,	BUSY, 0 },
	{ EDOM,		TASK_SET_FULL, 0 },	/* sg: queue full */
	{ LAST,		CHECK_CONDITION, IO_TERMINATED },
};

/* host_status, DID_* of the kernel's scsi/scsi_status.h: no SCSI status. */
static const struct fault hosts[] = {
	{ 0x01, CHECK_CONDITION, LU_COMM_FAILURE },	/* NO_CONNECT */
	{ 0x02, BUSY, 0 },				/* BUS_BUSY */
	{ 0x03, CHECK_CONDITION, COMMAND_TIMEOUT },	/* TIME_OUT */
	{ 0x04, CHECK_CONDITION, LU_COMM_FAILURE },	/* BAD_TARGET */
	{ 0x06, CHECK_CONDITION, TRANSPORT_ERROR },	/* PARITY */
	{ 0x07, CHECK_CONDITION, LU_COMM_FAILURE },	/* ERROR */
	{ 0x08, CHECK_CONDITION, DEVICE_RESET },	/* RESET */
	{ 0x0d, BUSY, 0 },				/* REQUEUE */
	{ 0x0e, CHECK_CONDITION, LU_COMM_FAILURE },	/* TRANSPORT_DISR.. */
	{ 0x0f, CHECK_CONDITION, LU_COMM_FAILURE },	/* TRANSPORT_FAILF.. */
	{ 0x10, CHECK_CONDITION, TARGET_FAILURE },	/* TARGET_FAILURE */
	{ 0x11, RESERVATION_CONFLICT, 0 },		/* NEXUS_FAILURE */
	{ 0x12, CHECK_CONDITION, SPACE_FAILED },	/* ALLOC_FAILURE */
	{ 0x13, CHECK_CONDITION, MEDIUM_ERROR },	/* MEDIUM_ERROR */
	{ 0x14, CHECK_CONDITION, LU_COMM_FAILURE },	/* TRANSPORT_MARG.. */
	{ LAST, CHECK_CONDITION, IO_TERMINATED },
};

/* driver_status of kernels before 5.14. */
static const struct fault drivers[] = {
	{ 0x01, BUSY, 0 },				/* BUSY */
	{ 0x06, CHECK_CONDITION, COMMAND_TIMEOUT },	/* TIMEOUT */
	{ LAST, CHECK_CONDITION, IO_TERMINATED },
};
/* clang-format on */

/* Is this the node of a whole SCSI device, sd or sg? By its number only. */
static int
scsi_node(const struct stat *st)
{
	unsigned int ma = major(st->st_rdev), mi = minor(st->st_rdev);

	if (S_ISCHR(st->st_mode))
		return ma == SG_MAJOR;
	if (!S_ISBLK(st->st_mode))
		return 0;
	/* devices.txt: SCSI disks have 16 majors; others are dynamic */
	return (ma == 8 || (ma >= 65 && ma <= 71) ||
		   (ma >= 128 && ma <= 135)) &&
	    mi % SD_MINORS == 0;
}

static void
answer(const struct fault *f, int value, struct reply *rp)
{
	while (f->value != LAST && f->value != value)
		f++;
	if (f->status == CHECK_CONDITION)
		proto_sense(rp, f->sense);
	else
		proto_status(rp, f->status);
}

/* The sense key of fixed or descriptor format sense data. */
static int
sense_key(const uint8_t *sense)
{
	return sense[(sense[0] & 0x7f) >= DESCRIPTOR_SENSE ? 1 : 2] &
	    SENSE_KEY_MASK;
}

/*
 * What a device answered goes back as it came. A SCSI status that is not
 * GOOD is its answer whatever host and driver say beside it; GOOD counts
 * only if both have nothing to add, since it is also what a command has that
 * got no answer.
 */
static void
outcome(
    int err, const struct sg_io_hdr *h, const uint8_t *sense, struct reply *rp)
{
	int driver = h->driver_status & DRIVER_MASK;
	int sensed = h->sb_len_wr > 0;

	if (err) {
		answer(errnos, err, rp);
		return;
	}
	if (h->status == GOOD && h->host_status) {
		answer(hosts, h->host_status, rp);
		return;
	}
	if (h->status == GOOD && driver && driver != DRIVER_SENSE) {
		answer(drivers, driver, rp);
		return;
	}
	proto_status(rp, h->status);
	if (sensed)
		memcpy(rp->sense, sense, SENSE_LEN);
	if (h->status == GOOD && driver == DRIVER_SENSE &&
	    (!sensed || sense_key(sense) > RECOVERED_ERROR))
		rp->status = CHECK_CONDITION;
	if (rp->status == CHECK_CONDITION && !sensed)
		proto_sense(rp, IO_TERMINATED);
}

/* How much the device sent; a residual that cannot be is taken as nothing. */
static uint32_t
transferred(const struct sg_io_hdr *h)
{
	if (h->resid < 0 || (unsigned int)h->resid > h->dxfer_len)
		return 0;
	return h->dxfer_len - (unsigned int)h->resid;
}

static int
direction(const struct request *rq)
{
	if (rq->len == 0)
		return SG_DXFER_NONE;
	return rq->cdb[0] == PR_IN ? SG_DXFER_FROM_DEV : SG_DXFER_TO_DEV;
}

static unsigned int
time_for(const struct request *rq)
{
	if (rq->cdb[0] == PR_OUT &&
	    (rq->cdb[1] & ACTION_MASK) == PREEMPT_AND_ABORT)
		return SG_ABORT_TIME;
	return SG_TIME;
}

void
sg_run(const struct request *rq, struct reply *rp)
{
	static atomic_int warned;
	uint8_t sense[SENSE_LEN] = { 0 };
	struct sg_io_hdr h = { .interface_id = 'S' };
	struct stat st;
	int err;

	if (fstat(rq->fd, &st) < 0 || !scsi_node(&st)) {
		proto_refuse(rq, rp, "no SCSI device");
		return;
	}
	if (rq->cdb[0] == PR_CLEANUP) {
		/* No path of its own, nothing remembered, nothing to do. */
		proto_status(rp, GOOD);
		return;
	}
	h.cmdp = (unsigned char *)rq->cdb;
	h.cmd_len = PR_CDB_LEN;
	h.sbp = sense;
	h.mx_sb_len = sizeof(sense);
	h.dxferp = rq->data;
	h.dxfer_len = rq->len;
	h.dxfer_direction = direction(rq);
	h.timeout = time_for(rq);
	/* What a device leaves out must not show another guest's data. */
	if (rq->cdb[0] == PR_IN)
		memset(rq->data, 0, rq->len);
	trace(TRACE_SG_IO, "fd=%d opcode=%02x action=%02x len=%u timeout=%u",
	    rq->fd, rq->cdb[0], rq->cdb[1] & ACTION_MASK, rq->len, h.timeout);
	err = ioctl(rq->fd, SG_IO, &h) < 0 ? errno : 0;
	outcome(err, &h, sense, rp);
	if (rq->cdb[0] == PR_IN && rp->status == GOOD)
		rp->len = transferred(&h);
	trace(TRACE_SG_DONE,
	    "fd=%d errno=%d host=%02x driver=%02x "
	    "status=%02x resid=%d ms=%u: status=%02x key=%x asc=%02x "
	    "ascq=%02x len=%u",
	    rq->fd, err, h.host_status, h.driver_status, h.status, h.resid,
	    h.duration, rp->status, sense_key(rp->sense), rp->sense[12],
	    rp->sense[13], rp->len);
	if (err == EPERM && !atomic_exchange(&warned, 1))
		warn("SG_IO refused: CAP_SYS_RAWIO is missing, or a security "
		     "module forbids it");
}
