/* See LICENSE file for copyright and license details. */
/*
 * The only ioctl(SG_IO): one command to one device, and one table that says
 * what is answered for what came back. GOOD is never made up here.
 *
 * A thread in SG_IO cannot be called back. So commands to paths of a map are
 * sent by walkers, threads that can be left behind: a walker works on memory
 * of its own and looks at the batch only under the lock, if it is still its.
 */
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <errno.h>
#include <pthread.h>
#include <scsi/sg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

enum {
	SG_MAJOR = 21,  /* Linux devices.txt: generic SCSI */
	SD_MINORS = 16, /* sd: the disk, then its partitions */
	TUR_CDB_LEN = 6,
	DRIVER_MASK = 0x0f,  /* the rest of driver_status are hints */
	DRIVER_SENSE = 0x08, /* sense is valid; older kernels */
	RECOVERED_ERROR = 1, /* the highest sense key of a success */
	LAST = -1,           /* a table's row for values that have none */
};

/* One sg_batch(); under the lock. */
struct batch {
	struct job *jobs;
	const char *wwid;
	int n;
	int started;           /* jobs that have a walker, or had one */
	int left;              /* jobs without an outcome */
	int given;             /* to a walker, who is on his way */
	struct walker *walker; /* who starts the next job; others finish */
	int64_t event;         /* time of the last start or outcome */
	pthread_cond_t done;
};

/* Its own from dev on while it is in SG_IO; the rest under the lock. */
struct walker {
	struct walker *next;
	int parked;
	pthread_cond_t wake;
	struct batch *batch; /* NULL: none, or abandoned if there is a dev */
	int job;             /* which one of the batch */
	dev_t dev;           /* where it is; 0: nowhere */
	struct request rq;
	struct reply rp;
	uint8_t how;
	char wwid[WWID_LEN];
	_Alignas(8) uint8_t data[DATA_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct walker *walkers;
static int parked;

/* clang-format off */
/* A status, what it says of a path, and with CHECK CONDITION the sense. */
struct fault {
	int value;
	uint8_t status;
	uint8_t how;
	uint32_t sense;
};

/* SG_IO itself failed: the command was not sent. */
static const struct fault errnos[] = {
	{ EBADF,	CHECK_CONDITION, SG_DEAD, INVALID_OPCODE }, /* O_PATH */
	{ EPERM,	CHECK_CONDITION, SG_UNUSABLE, INVALID_OPCODE },
	{ EACCES,	CHECK_CONDITION, SG_UNUSABLE, INVALID_OPCODE },
	{ EINVAL,	CHECK_CONDITION, SG_DEAD, INVALID_OPCODE },
	{ ENOTTY,	CHECK_CONDITION, SG_DEAD, INVALID_OPCODE },
	{ EMSGSIZE,	CHECK_CONDITION, SG_DEAD, INVALID_FIELD },
	{ E2BIG,	CHECK_CONDITION, SG_DEAD, INVALID_FIELD },
	{ ENODEV,	CHECK_CONDITION, SG_DEAD, LU_COMM_FAILURE },
	{ ENXIO,	CHECK_CONDITION, SG_DEAD, LU_COMM_FAILURE },
	{ ENOENT,	CHECK_CONDITION, SG_DEAD, LU_COMM_FAILURE },
	{ ENOMEM,	BUSY, SG_ANSWERED, 0 },
	{ EAGAIN,	BUSY, SG_ANSWERED, 0 },
	{ EBUSY,	BUSY, SG_ANSWERED, 0 },
	{ EDOM,		TASK_SET_FULL, SG_ANSWERED, 0 }, /* sg: queue full */
	{ LAST,		CHECK_CONDITION, SG_DEAD, IO_TERMINATED },
};

/* host_status, DID_* of the kernel's scsi/scsi_status.h: no SCSI status. */
static const struct fault hosts[] = {
	{ 0x01, CHECK_CONDITION, SG_LOST, LU_COMM_FAILURE }, /* NO_CONNECT */
	{ 0x02, BUSY, SG_LOST, 0 },			/* BUS_BUSY */
	{ 0x03, CHECK_CONDITION, SG_LOST, COMMAND_TIMEOUT }, /* TIME_OUT */
	{ 0x04, CHECK_CONDITION, SG_LOST, LU_COMM_FAILURE }, /* BAD_TARGET */
	{ 0x06, CHECK_CONDITION, SG_LOST, TRANSPORT_ERROR }, /* PARITY */
	{ 0x07, CHECK_CONDITION, SG_LOST, LU_COMM_FAILURE }, /* ERROR */
	{ 0x08, CHECK_CONDITION, SG_LOST, DEVICE_RESET }, /* RESET */
	{ 0x0d, BUSY, SG_LOST, 0 },			/* REQUEUE */
	{ 0x0e, CHECK_CONDITION, SG_LOST, LU_COMM_FAILURE }, /* .._DISRUPTED */
	{ 0x0f, CHECK_CONDITION, SG_LOST, LU_COMM_FAILURE }, /* .._FAILFAST */
	{ 0x10, CHECK_CONDITION, SG_LOST, TARGET_FAILURE }, /* TARGET_FAILURE */
	{ 0x11, RESERVATION_CONFLICT, SG_LOST, 0 },	/* NEXUS_FAILURE */
	{ 0x12, CHECK_CONDITION, SG_LOST, SPACE_FAILED }, /* ALLOC_FAILURE */
	{ 0x13, CHECK_CONDITION, SG_LOST, MEDIUM_ERROR }, /* MEDIUM_ERROR */
	{ 0x14, CHECK_CONDITION, SG_LOST, LU_COMM_FAILURE }, /* .._MARGINAL */
	{ LAST, CHECK_CONDITION, SG_LOST, IO_TERMINATED },
};

/* driver_status of kernels before 5.14. */
static const struct fault drivers[] = {
	{ 0x01, BUSY, SG_ANSWERED, 0 },			/* BUSY */
	{ 0x06, CHECK_CONDITION, SG_LOST, COMMAND_TIMEOUT }, /* TIMEOUT */
	{ LAST, CHECK_CONDITION, SG_LOST, IO_TERMINATED },
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

static uint8_t
answer(const struct fault *f, int value, struct reply *rp)
{
	while (f->value != LAST && f->value != value)
		f++;
	if (f->status == CHECK_CONDITION)
		proto_sense(rp, f->sense);
	else
		proto_status(rp, f->status);
	return f->how;
}

/*
 * What a device answered goes back as it came. A SCSI status that is not
 * GOOD is its answer whatever host and driver say beside it; GOOD counts
 * only if both have nothing to add, since it is also what a command has that
 * got no answer.
 */
static uint8_t
outcome(
    int err, const struct sg_io_hdr *h, const uint8_t *sense, struct reply *rp)
{
	int driver = h->driver_status & DRIVER_MASK;
	int sensed = h->sb_len_wr > 0;

	if (err)
		return answer(errnos, err, rp);
	if (h->status == GOOD && h->host_status)
		return answer(hosts, h->host_status, rp);
	if (h->status == GOOD && driver && driver != DRIVER_SENSE)
		return answer(drivers, driver, rp);
	proto_status(rp, h->status);
	if (sensed)
		memcpy(rp->sense, sense, SENSE_LEN);
	if (h->status == GOOD && driver == DRIVER_SENSE &&
	    (!sensed || proto_sense_of(sense) >> 16 > RECOVERED_ERROR))
		rp->status = CHECK_CONDITION;
	if (rp->status == CHECK_CONDITION && !sensed)
		proto_sense(rp, IO_TERMINATED);
	return rp->status == TASK_ABORTED ? SG_LOST : SG_ANSWERED;
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

/* What the trace calls it: the path, or the descriptor of a plain disk. */
static const char *
name(char *buf, size_t size, int fd, dev_t dev)
{
	if (dev)
		snprintf(buf, size, "path=%u:%u", major(dev), minor(dev));
	else
		snprintf(buf, size, "fd=%d", fd);
	return buf;
}

/* Send the request to its descriptor; the SG_ of a path is returned. */
static uint8_t
send_one(const struct request *rq, struct reply *rp, dev_t dev)
{
	static atomic_int warned;
	char buf[32];
	uint8_t sense[SENSE_LEN] = { 0 }, how;
	struct sg_io_hdr h = { .interface_id = 'S' };
	uint32_t told;
	int err;

	h.cmdp = (unsigned char *)rq->cdb;
	h.cmd_len = rq->cdb[0] == TEST_UNIT_READY ? TUR_CDB_LEN : PR_CDB_LEN;
	h.sbp = sense;
	h.mx_sb_len = sizeof(sense);
	h.dxferp = rq->data;
	h.dxfer_len = rq->len;
	h.dxfer_direction = direction(rq);
	h.timeout = time_for(rq);
	/* What a device leaves out must not show another guest's data. */
	if (rq->cdb[0] == PR_IN)
		memset(rq->data, 0, rq->len);
	trace(TRACE_SG_IO, "%s opcode=%02x action=%02x len=%u timeout=%u",
	    name(buf, sizeof(buf), rq->fd, dev), rq->cdb[0],
	    rq->cdb[1] & ACTION_MASK, rq->len, h.timeout);
	err = ioctl(rq->fd, SG_IO, &h) < 0 ? errno : 0;
	how = outcome(err, &h, sense, rp);
	if (rq->cdb[0] == PR_IN && rp->status == GOOD)
		rp->len = transferred(&h);
	told = proto_sense_of(rp->sense);
	trace(TRACE_SG_DONE,
	    "%s errno=%d host=%02x driver=%02x "
	    "status=%02x resid=%d ms=%u: status=%02x key=%x asc=%02x "
	    "ascq=%02x len=%u",
	    name(buf, sizeof(buf), rq->fd, dev), err, h.host_status,
	    h.driver_status, h.status, h.resid, h.duration, rp->status,
	    told >> 16, told >> 8 & 0xff, told & 0xff, rp->len);
	if (err == EPERM && !atomic_exchange(&warned, 1))
		warn("SG_IO refused: CAP_SYS_RAWIO is missing, or a security "
		     "module forbids it");
	return how;
}

int
sg_node(struct request *rq)
{
	struct stat st;

	rq->dev = 0;
	if (fstat(rq->fd, &st) < 0)
		return 0;
	if (S_ISBLK(st.st_mode))
		rq->dev = st.st_rdev;
	return scsi_node(&st);
}

void
sg_run(const struct request *rq, struct reply *rp)
{
	/* No path of its own, nothing remembered, nothing to forget. */
	if (rq->cdb[0] == PR_CLEANUP)
		proto_status(rp, GOOD);
	else
		send_one(rq, rp, 0);
}

/* Is a walker still there with a command that was abandoned? */
static int
haunted(dev_t dev)
{
	const struct walker *w;

	for (w = walkers; w; w = w->next)
		if (w->dev == dev && !w->batch)
			return 1;
	return 0;
}

/* A job has its outcome. */
static void
settle(struct batch *b, struct job *j, uint8_t how)
{
	j->how = how;
	b->event = now();
	if (--b->left == 0)
		pthread_cond_signal(&b->done);
}

/* Take over the next job. 0: it has an outcome already. */
static int
take(struct walker *w, struct batch *b)
{
	struct job *j = &b->jobs[b->started];

	if (haunted(j->dev)) {
		b->started++;
		proto_sense(&j->rp, LU_COMM_FAILURE);
		settle(b, j, SG_UNUSABLE);
		return 0;
	}
	w->job = b->started++;
	w->dev = j->dev;
	w->rq = j->rq;
	w->rq.data = w->data;
	if (w->rq.cdb[0] == PR_OUT)
		memcpy(w->data, j->rq.data, w->rq.len);
	b->event = now();
	return 1;
}

/* To the path and back, without the lock: each step may block. */
static void
visit(struct walker *w)
{
	proto_sense(&w->rp, LU_COMM_FAILURE);
	if ((w->rq.fd = path_open(w->dev, w->wwid, &w->how)) < 0)
		return;
	w->how = send_one(&w->rq, &w->rp, w->dev);
	close(w->rq.fd);
}

static void
give(const struct walker *w, struct batch *b)
{
	struct job *j = &b->jobs[w->job];

	j->rp = w->rp;
	if (w->rp.len > 0)
		memcpy(j->rq.data, w->data, w->rp.len);
	settle(b, j, w->how);
}

/*
 * Walk the jobs while nobody else does. The batch is gone once it has no job
 * without an outcome, and once it let go of this walker.
 */
static void
walk(struct walker *w, struct batch *b)
{
	snprintf(w->wwid, sizeof(w->wwid), "%s", b->wwid);
	b->given = 0;
	b->walker = w;
	while (b->left > 0 && b->walker == w && b->started < b->n) {
		if (!take(w, b))
			continue;
		w->batch = b;
		pthread_mutex_unlock(&lock);
		visit(w);
		pthread_mutex_lock(&lock);
		w->dev = 0;
		if (!w->batch)
			return;
		w->batch = NULL;
		give(w, b);
	}
}

/*
 * Wait for a batch; NULL when there was none for PARK_TIME. The last one that
 * is parked stays. Any clock does.
 */
static struct batch *
park(struct walker *w)
{
	struct timespec end;
	struct batch *b;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += PARK_TIME / 1000;
	w->parked = 1;
	parked++;
	while (w->parked && !(r == ETIMEDOUT && parked > 1)) {
		if (parked == 1)
			r = pthread_cond_wait(&w->wake, &lock);
		else
			r = pthread_cond_timedwait(&w->wake, &lock, &end);
	}
	if (w->parked)
		parked--;
	b = w->batch;
	w->batch = NULL;
	return b;
}

static void *
walker(void *batch)
{
	struct walker w = { .next = NULL }, **p;
	struct batch *b = batch;

	pthread_cond_init(&w.wake, NULL);
	pthread_mutex_lock(&lock);
	w.next = walkers;
	walkers = &w;
	do
		walk(&w, b);
	while ((b = park(&w)));
	for (p = &walkers; *p != &w; p = &(*p)->next)
		;
	*p = w.next;
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&w.wake);
	return NULL;
}

/* Wake one that is parked. */
static int
wake(struct batch *b)
{
	struct walker *w;

	for (w = walkers; w && !w->parked; w = w->next)
		;
	if (!w)
		return -1;
	w->parked = 0;
	parked--;
	w->batch = b;
	pthread_cond_signal(&w->wake);
	return 0;
}

/* Give the jobs that were not started to a walker, or to none: then BUSY. */
static void
hand_off(struct batch *b)
{
	b->event = now();
	b->walker = NULL;
	if (b->given)
		return;
	if (wake(b) == 0 || thread_start(walker, b) == 0) {
		b->given = 1;
		return;
	}
	while (b->started < b->n) {
		proto_status(&b->jobs[b->started].rp, BUSY);
		settle(b, &b->jobs[b->started++], SG_ANSWERED);
	}
}

/* What is under way now stays with its walkers. */
static void
abandon(struct batch *b)
{
	struct walker *w;
	struct job *j;

	for (w = walkers; w; w = w->next) {
		if (w->batch != b)
			continue;
		w->batch = NULL;
		j = &b->jobs[w->job];
		proto_sense(&j->rp, COMMAND_TIMEOUT);
		settle(b, j, SG_SILENT);
	}
}

static void
wait_for(struct batch *b, int64_t end)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(end / 1000),
		.tv_nsec = (long)(end % 1000) * 1000000,
	};

	pthread_cond_timedwait(&b->done, &lock, &ts);
}

void
sg_batch(struct job *jobs, int n, const char *wwid, int patience)
{
	struct batch b = { .jobs = jobs, .n = n, .left = n, .wwid = wwid };
	pthread_condattr_t attr;
	int64_t end;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b.done, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_lock(&lock);
	if (n > 0)
		hand_off(&b);
	while (b.left > 0) {
		end = b.event + (b.started < n ? PATIENCE : patience);
		if (now() < end)
			wait_for(&b, end);
		else if (b.started < n)
			hand_off(&b);
		else
			abandon(&b);
	}
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&b.done);
}
