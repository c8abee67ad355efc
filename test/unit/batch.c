/* See LICENSE file for copyright and license details. */
/*
 * sg_batch(): commands to the paths of a map, some of which are silent. The
 * linker chooses this file's ioctl(), path_open() and pthread_create().
 */
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "check.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define WWID "naa.600140512345"

enum {
	DISKS = 128,
	FIRST_FD = 5000, /* of a disk: this, and its number */
	ALLOC = 64,
	LONG = 20000,    /* more patience than any test needs */
	LATE = 10000,    /* later than this is wrong even when busy */
	EARLY = 5,       /* clocks may differ by so much */
};

/* A path: how it answers, and what came. */
struct disk {
	atomic_int shut;      /* the command does not return before it is 0 */
	atomic_int open_shut; /* the same for open() */
	atomic_int open_how;  /* open() fails with this */
	atomic_int err, host, driver, status;
	atomic_int resid;
	atomic_int calls;
	atomic_int began, ended; /* milliseconds since the test began */
};

static struct disk disks[DISKS];
static atomic_int order[4 * DISKS], orders, running, most_running;
static atomic_int no_threads, wrong_wwid;
static struct sg_io_hdr seen;
static uint8_t seen_data[DATA_MAX];
static atomic_int look; /* may seen be written? Only with one thread. */
static int64_t epoch;

static int
ms(void)
{
	return (int)(now() - epoch);
}

static void
nap(int n)
{
	wait_until(now() + n);
}

static void
until_open(atomic_int *shut)
{
	while (atomic_load(shut))
		nap(1);
}

int
path_open(dev_t dev, const char *wwid, uint8_t *how)
{
	struct disk *d = &disks[minor(dev)];

	if (strcmp(wwid, WWID) != 0)
		atomic_store(&wrong_wwid, 1);
	until_open(&d->open_shut);
	if ((*how = (uint8_t)atomic_load(&d->open_how)) != SG_ANSWERED)
		return -1;
	return FIRST_FD + (int)minor(dev);
}

int
ioctl(int fd, ioctl_t cmd, ...)
{
	struct disk *d = &disks[fd - FIRST_FD];
	struct sg_io_hdr *h;
	va_list ap;
	int n;

	va_start(ap, cmd);
	h = va_arg(ap, struct sg_io_hdr *);
	va_end(ap);
	if (fd < FIRST_FD || fd >= FIRST_FD + DISKS || cmd != SG_IO) {
		errno = ENOSYS;
		return -1;
	}
	atomic_store(&d->began, ms());
	atomic_fetch_add(&d->calls, 1);
	n = atomic_fetch_add(&running, 1) + 1;
	if (n > atomic_load(&most_running))
		atomic_store(&most_running, n);
	n = atomic_fetch_add(&orders, 1);
	if (n < (int)LEN(order))
		atomic_store(&order[n], fd - FIRST_FD);
	if (atomic_load(&look)) {
		seen = *h;
		memcpy(seen_data, h->dxferp, h->dxfer_len);
	}
	until_open(&d->shut);
	/* The payload says whose it is, and for what: byte 15 of the CDB. */
	if (h->cmdp[0] == PR_IN) {
		memset(h->dxferp, fd - FIRST_FD, h->dxfer_len);
		((uint8_t *)h->dxferp)[0] = h->cmdp[2];
	}
	h->host_status = (unsigned short)atomic_load(&d->host);
	h->driver_status = (unsigned short)atomic_load(&d->driver);
	h->status = (unsigned char)atomic_load(&d->status);
	h->resid = atomic_load(&d->resid);
	if (h->status == CHECK_CONDITION) {
		h->sbp[0] = 0x70;
		h->sbp[2] = 6;
		h->sbp[12] = 0x2a;
		h->sb_len_wr = 18;
	}
	atomic_store(&d->ended, ms());
	atomic_fetch_sub(&running, 1);
	errno = atomic_load(&d->err);
	return errno ? -1 : 0;
}

int
pthread_create(pthread_t *t, const pthread_attr_t *attr,
	void *(*start)(void *), void *arg)
{
	int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
		void *);

	if (atomic_load(&no_threads))
		return EAGAIN;
	*(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
	return next(t, attr, start, arg);
}

static void
reset(void)
{
	memset(disks, 0, sizeof(disks));
	atomic_store(&orders, 0);
	atomic_store(&most_running, 0);
	atomic_store(&running, 0);
}

static dev_t
disk_dev(int disk)
{
	return makedev(8, (unsigned int)disk);
}

/* n jobs to disks from first on, each with a buffer; n 0 for none. */
static struct job *
make_jobs(int first, int n, uint8_t opcode)
{
	struct job *jobs = calloc((size_t)n, sizeof(*jobs));
	int i;

	for (i = 0; i < n; i++) {
		jobs[i].dev = disk_dev(first + i);
		jobs[i].how = 0xee;
		jobs[i].rq.fd = -1;
		jobs[i].rq.cdb[0] = opcode;
		jobs[i].rq.cdb[2] = 0xa5;
		jobs[i].rq.data = malloc(ALLOC);
		memset(jobs[i].rq.data, 0xee, ALLOC);
		if (opcode == PR_IN)
			jobs[i].rq.len = ALLOC;
		if (opcode == PR_OUT)
			jobs[i].rq.len = 24;
	}
	return jobs;
}

static void
free_jobs(struct job *jobs, int n)
{
	while (n-- > 0)
		free(jobs[n].rq.data);
	free(jobs);
}

/* How many jobs ended so? */
static int
count(const struct job *jobs, int n, uint8_t how)
{
	int c = 0;

	while (n-- > 0)
		c += jobs[n].how == how;
	return c;
}

static int
is_sense(const struct reply *rp, int key, int asc, int ascq)
{
	return rp->status == CHECK_CONDITION && rp->sense[2] == key &&
		rp->sense[12] == asc && rp->sense[13] == ascq &&
		rp->len == 0;
}

/* Send one command to one disk; the outcome. */
static uint8_t
one(int disk, uint8_t opcode, int patience, struct reply *rp)
{
	struct job *j = make_jobs(disk, 1, opcode);
	uint8_t how;

	sg_batch(j, 1, WWID, patience);
	how = j->how;
	*rp = j->rp;
	free_jobs(j, 1);
	return how;
}

/* A walker that was left behind needs a moment to be back. */
static uint8_t
one_again(int disk)
{
	int64_t end = now() + LATE;
	struct reply rp;
	uint8_t how;

	while ((how = one(disk, PR_IN, LONG, &rp)) == SG_UNUSABLE &&
		now() < end)
		nap(5);
	return how;
}

/* First of all, while there is no walker yet. */
static void
without_threads(void)
{
	struct job *j = make_jobs(0, 3, PR_IN);
	int i, ok = 1;

	reset();
	atomic_store(&no_threads, 1);
	sg_batch(j, 3, WWID, LONG);
	for (i = 0; i < 3; i++)
		ok &= j[i].how == SG_ANSWERED && j[i].rp.status == BUSY &&
			j[i].rp.len == 0;
	check(ok, "no thread at all: BUSY");
	check(atomic_load(&orders) == 0, "and nothing is sent");
	free_jobs(j, 3);

	atomic_store(&no_threads, 0);
	check(one_again(0) == SG_ANSWERED, "with threads it works");

	atomic_store(&no_threads, 1);
	atomic_store(&disks[1].shut, 1);
	j = make_jobs(0, 4, PR_IN);
	sg_batch(j, 4, WWID, PATIENCE);
	check(j[0].how == SG_ANSWERED && j[0].rp.status == GOOD &&
		j[1].how == SG_SILENT, "no second thread: the first walks on");
	check(j[2].how == SG_ANSWERED && j[2].rp.status == BUSY &&
		j[3].how == SG_ANSWERED && j[3].rp.status == BUSY,
		"the jobs that nobody starts are BUSY");
	free_jobs(j, 4);
	atomic_store(&disks[1].shut, 0);
	atomic_store(&no_threads, 0);
	check(one_again(1) == SG_ANSWERED, "and all is well again");
}

static void
requests(void)
{
	static const uint8_t params[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	struct job *j;
	struct reply rp;
	int i, clean = 1;

	reset();
	sg_batch(NULL, 0, WWID, LONG);
	check(atomic_load(&orders) == 0, "no jobs: nothing to wait for");
	atomic_store(&look, 1);
	one(0, TEST_UNIT_READY, LONG, &rp);
	check(seen.cmd_len == 6 && seen.dxfer_direction == SG_DXFER_NONE &&
		seen.timeout == SG_TIME, "TEST UNIT READY has 6 bytes");
	one(0, PR_IN, LONG, &rp);
	check(seen.cmd_len == 10 && seen.dxfer_len == ALLOC &&
		seen.dxfer_direction == SG_DXFER_FROM_DEV,
		"IN has 10 bytes, and reads");
	j = make_jobs(0, 1, PR_OUT);
	memcpy(j->rq.data, params, sizeof(params));
	j->rq.cdb[1] = PREEMPT_AND_ABORT;
	sg_batch(j, 1, WWID, LONG);
	check(seen.cmd_len == 10 && seen.dxfer_len == 24 &&
		seen.dxfer_direction == SG_DXFER_TO_DEV &&
		seen.timeout == SG_ABORT_TIME &&
		memcmp(seen_data, params, sizeof(params)) == 0,
		"OUT writes its parameter list");
	check((uint8_t *)seen.dxferp != j->rq.data,
		"from memory that is not the caller's");
	free_jobs(j, 1);
	atomic_store(&look, 0);

	atomic_store(&disks[7].resid, 24);
	j = make_jobs(7, 1, PR_IN);
	sg_batch(j, 1, WWID, LONG);
	for (i = 40; i < ALLOC; i++)
		clean &= j->rq.data[i] == 0xee;
	check(j->how == SG_ANSWERED && j->rp.len == 40 && clean &&
		j->rq.data[0] == 0xa5 && j->rq.data[39] == 7,
		"the payload is what the device sent");
	free_jobs(j, 1);
	check(!atomic_load(&wrong_wwid), "the name of the unit is passed on");
}

static void
outcomes(void)
{
	static const struct {
		const char *name;
		int open_how, err, host, driver, status;
		int how, want_status, key, asc;
	} t[] = {
		{ "GOOD", 0, 0, 0, 0, 0, SG_ANSWERED, GOOD, 0, 0 },
		{ "CONFLICT", 0, 0, 0, 0, 0x18, SG_ANSWERED, 0x18, 0, 0 },
		{ "sense", 0, 0, 0, 8, 2, SG_ANSWERED, 2, 6, 0x2a },
		{ "BUSY", 0, 0, 0, 0, 8, SG_ANSWERED, BUSY, 0, 0 },
		{ "a status beside a host status", 0, 0, 0x11, 0, 0x18,
		  SG_ANSWERED, 0x18, 0, 0 },
		{ "TASK ABORTED", 0, 0, 0, 0, 0x40, SG_LOST, 0x40, 0, 0 },
		{ "host NO_CONNECT", 0, 0, 1, 0, 0, SG_LOST, 2, 0xb, 8 },
		{ "host BUS_BUSY", 0, 0, 2, 0, 0, SG_LOST, BUSY, 0, 0 },
		{ "host TIME_OUT", 0, 0, 3, 0, 0, SG_LOST, 2, 0xb, 0x2e },
		{ "a host status of later", 0, 0, 0x3f, 0, 0, SG_LOST, 2,
		  0xb, 0 },
		{ "driver TIMEOUT", 0, 0, 0, 6, 0, SG_LOST, 2, 0xb, 0x2e },
		{ "driver BUSY", 0, 0, 0, 1, 0, SG_ANSWERED, BUSY, 0, 0 },
		{ "driver HARD", 0, 0, 0, 7, 0, SG_LOST, 2, 0xb, 0 },
		{ "ENODEV", 0, ENODEV, 0, 0, 0, SG_DEAD, 2, 0xb, 8 },
		{ "ENXIO", 0, ENXIO, 0, 0, 0, SG_DEAD, 2, 0xb, 8 },
		{ "EIO", 0, EIO, 0, 0, 0, SG_DEAD, 2, 0xb, 0 },
		{ "EPERM", 0, EPERM, 0, 0, 0, SG_UNUSABLE, 2, 5, 0x20 },
		{ "EACCES", 0, EACCES, 0, 0, 0, SG_UNUSABLE, 2, 5, 0x20 },
		{ "ENOMEM", 0, ENOMEM, 0, 0, 0, SG_ANSWERED, BUSY, 0, 0 },
		{ "EAGAIN", 0, EAGAIN, 0, 0, 0, SG_ANSWERED, BUSY, 0, 0 },
		{ "EBUSY", 0, EBUSY, 0, 0, 0, SG_ANSWERED, BUSY, 0, 0 },
		{ "no such path", SG_DEAD, 0, 0, 0, 0, SG_DEAD, 2, 0xb, 8 },
		{ "a path not to be used", SG_UNUSABLE, 0, 0, 0, 0,
		  SG_UNUSABLE, 2, 0xb, 8 },
	};
	struct reply rp;
	char name[96];
	size_t i;
	int how;

	for (i = 0; i < LEN(t); i++) {
		reset();
		atomic_store(&disks[3].open_how, t[i].open_how);
		atomic_store(&disks[3].err, t[i].err);
		atomic_store(&disks[3].host, t[i].host);
		atomic_store(&disks[3].driver, t[i].driver);
		atomic_store(&disks[3].status, t[i].status);
		how = one(3, PR_OUT, LONG, &rp);
		snprintf(name, sizeof(name), "outcome: %s", t[i].name);
		check(how == t[i].how && rp.status == t[i].want_status &&
			rp.sense[2] == t[i].key && rp.sense[12] == t[i].asc,
			name);
		if (t[i].open_how)
			check(atomic_load(&orders) == 0,
				"and nothing is sent");
	}
}

static void
in_order(void)
{
	struct job *j = make_jobs(0, PATHS_MAX, PR_IN);
	int i, ok = 1;

	reset();
	sg_batch(j, PATHS_MAX, WWID, LONG);
	for (i = 0; i < PATHS_MAX; i++)
		ok &= atomic_load(&order[i]) == i &&
			j[i].how == SG_ANSWERED && j[i].rp.len == ALLOC &&
			j[i].rq.data[1] == i;
	check(ok, "64 paths: each its own command and payload, in order");
	check(atomic_load(&orders) == PATHS_MAX &&
		atomic_load(&most_running) == 1, "one after another");
	free_jobs(j, PATHS_MAX);
}

/* Opens what is shut, at times since the test began. */
struct opener {
	struct {
		int at, disk;
	} e[4];
	int n;
};

static void *
opener(void *arg)
{
	const struct opener *o = arg;
	int i;

	for (i = 0; i < o->n; i++) {
		wait_until(epoch + o->e[i].at);
		atomic_store(&disks[o->e[i].disk].shut, 0);
	}
	return NULL;
}

static void
stagger(void)
{
	struct opener o = { { { 4 * PATIENCE, 1 }, { 5 * PATIENCE, 2 } }, 2 };
	struct job *j = make_jobs(0, 5, PR_IN);
	pthread_t t;

	reset();
	atomic_store(&disks[1].shut, 1);
	atomic_store(&disks[2].shut, 1);
	epoch = now();
	pthread_create(&t, NULL, opener, &o);
	sg_batch(j, 5, WWID, LONG);
	pthread_join(t, NULL);
	check(count(j, 5, SG_ANSWERED) == 5, "two slow paths: all answer");
	check(disks[2].began >= disks[1].began + PATIENCE - EARLY &&
		disks[3].began >= disks[2].began + PATIENCE - EARLY,
		"the next starts when one was silent for 500 ms");
	check(disks[3].began < disks[1].ended, "and does not wait for it");
	check(atomic_load(&most_running) == 3, "three at once");
	free_jobs(j, 5);
}

/* Who comes back late has lost his place: only one walks. */
static void
one_walks(void)
{
	struct opener o = { { { PATIENCE + 200, 0 }, { PATIENCE + 450, 1 } },
		2 };
	struct job *j = make_jobs(0, 4, PR_IN);
	pthread_t t;

	reset();
	atomic_store(&disks[0].shut, 1);
	atomic_store(&disks[1].shut, 1);
	epoch = now();
	pthread_create(&t, NULL, opener, &o);
	sg_batch(j, 4, WWID, LONG);
	pthread_join(t, NULL);
	/* On a busy machine another one may have been sent meanwhile. */
	check(count(j, 4, SG_ANSWERED) == 4 &&
		(disks[2].began >= disks[1].ended ||
			disks[2].began >= disks[1].began + PATIENCE - EARLY),
		"one that comes back late starts nothing");
	free_jobs(j, 4);
}

static void
silence(void)
{
	struct job *j = make_jobs(0, 3, PR_IN);
	struct reply rp;
	int64_t t;
	int i, took, clean = 1;

	reset();
	atomic_store(&disks[2].shut, 1);
	t = now();
	sg_batch(j, 3, WWID, 300);
	took = (int)(now() - t);
	check(count(j, 2, SG_ANSWERED) == 2 && j[2].how == SG_SILENT,
		"a silent path is abandoned, the others have answered");
	check(is_sense(&j[2].rp, 0xb, 0x2e, 2), "with sense that says so");
	check(took >= 300 - EARLY && took < LATE, "after our patience");
	/* Every byte again, and what is freed AddressSanitizer watches. */
	memset(&j[2].rp, 0xdd, sizeof(j[2].rp));
	j[2].how = 0xdd;

	t = now();
	check(one(2, PR_OUT, LONG, &rp) == SG_UNUSABLE &&
		is_sense(&rp, 0xb, 8, 0) && atomic_load(&disks[2].calls) == 1,
		"it gets nothing new");
	check(now() - t < LATE, "and nobody waits for it");
	check(one(1, PR_OUT, LONG, &rp) == SG_ANSWERED,
		"another path is used as ever");
	atomic_store(&disks[2].shut, 0);
	check(one_again(2) == SG_ANSWERED, "when it is back it is used again");
	for (i = 0; i < ALLOC; i++)
		clean &= j[2].rq.data[i] == 0xee;
	check(clean && j[2].how == 0xdd && j[2].rp.status == 0xdd,
		"what came late went nowhere");
	free_jobs(j, 3);
}

static void
freed(void)
{
	struct job *j = make_jobs(0, 4, PR_IN);
	int i;

	reset();
	for (i = 0; i < 4; i++)
		atomic_store(&disks[i].shut, 1);
	sg_batch(j, 4, WWID, 100);
	check(count(j, 4, SG_SILENT) == 4 && atomic_load(&orders) == 4,
		"all silent: each is tried, each is abandoned");
	free_jobs(j, 4);
	for (i = 0; i < 4; i++)
		atomic_store(&disks[i].shut, 0);
	for (i = 0; i < 4; i++)
		check(one_again(i) == SG_ANSWERED, "and works again");
}

static void
open_hangs(void)
{
	struct job *j = make_jobs(0, 2, PR_IN);

	reset();
	atomic_store(&disks[0].open_shut, 1);
	sg_batch(j, 2, WWID, PATIENCE);
	check(j[0].how == SG_SILENT && j[1].how == SG_ANSWERED &&
		atomic_load(&disks[0].calls) == 0,
		"open() that hangs is silence, too");
	free_jobs(j, 2);
	atomic_store(&disks[0].open_shut, 0);
	check(one_again(0) == SG_ANSWERED, "and works again");
}

/* Each thread has its own unit with 4 paths; the last is sometimes silent. */
enum { CROWD = 8, ROUNDS = 60 };

static void *
member(void *arg)
{
	int first = *(int *)arg, i, k, wrong = 0;
	struct job *j;

	for (i = 0; i < ROUNDS; i++) {
		j = make_jobs(first, 4, i % 3 ? PR_IN : PR_OUT);
		for (k = 0; k < 4; k++)
			j[k].rq.cdb[2] = (uint8_t)i;
		if (i == ROUNDS / 2)
			atomic_store(&disks[first + 3].shut, 1);
		sg_batch(j, 4, WWID, i >= ROUNDS / 2 ? 50 : LONG);
		for (k = 0; k < 3; k++)
			wrong += j[k].how == SG_ANSWERED && i % 3 &&
				(j[k].rp.len != ALLOC ||
					j[k].rq.data[0] != i ||
					j[k].rq.data[1] != first + k);
		wrong += i < ROUNDS / 2 && count(j, 4, SG_ANSWERED) != 4;
		free_jobs(j, 4);
	}
	atomic_store(&disks[first + 3].shut, 0);
	wrong += one_again(first + 3) != SG_ANSWERED;
	*(int *)arg = wrong;
	return NULL;
}

static void
crowd(void)
{
	int arg[CROWD], i, wrong = 0;
	pthread_t t[CROWD];

	reset();
	for (i = 0; i < CROWD; i++) {
		arg[i] = 4 * i;
		pthread_create(&t[i], NULL, member, &arg[i]);
	}
	for (i = 0; i < CROWD; i++) {
		pthread_join(t[i], NULL);
		wrong += arg[i];
	}
	check(wrong == 0, "many batches at once do not mix");
}

int
main(void)
{
	verbosity = LOG_ERRORS;
	epoch = now();
	without_threads();
	requests();
	outcomes();
	in_order();
	stagger();
	one_walks();
	silence();
	freed();
	open_hangs();
	crowd();
	printf("1..%d\n", tests);
	return failed != 0;
}
