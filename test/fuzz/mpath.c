/* See LICENSE file for copyright and license details. */
/*
 * Fuzzing of mpath.c and sg.c: what a guest asks for, and what devices return.
 * Behind a map of some paths is the simulator's logical unit, as sane as
 * target.c is; but what comes back may be any errno, status, sense data and
 * payload, short ones and lengths that lie among them, or nothing at all. The
 * real mpath.c, sg.c's way through SG_IO, proto.c and state.c, without
 * threads; time is virtual.
 *
 * An input has three bytes of options; then, from the front, what happens:
 * commands of the guest with any parameter list, other hosts, paths that go,
 * a predecessor's state; and from the end a byte for each command to a path:
 * what is wrong with its answer. Most of them say: nothing.
 */
/* Names that sim.h has, too; and the batch is this file's. */
#define sg_batch batch_with_threads
#define fault sg_fault
#define answer sg_answer
#include "../../sg.c"
#undef sg_batch
#undef fault
#undef answer

#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>

#include "../sim/sim.h"
#include "fuzz.h"

void sg_batch(struct job *, int, const char *, int);

enum {
	FAKE_FD = 77,
	MAP_MAJOR = 253,
	SENT_MAX = 200000, /* commands to paths for one of the guest */
	RUN_TIME = 2 * MPATH_TIME,
	GUARD = 64, /* bytes behind what a guest has room for */
	SHORT_SENSE = 18,
};

/* The first byte of options, beside the kind of target. */
enum { HONEST = 4, QUEUES = 8, STANDBY = 16, BUSY_PATHS = 32 };

/* What is wrong with an answer; any other byte: nothing. */
enum {
	NOTHING,
	ERRNO,       /* SG_IO fails */
	HOST,        /* a host status, not executed */
	HOST_AFTER,  /* ... executed */
	DRIVER,      /* a driver status */
	STATUS,      /* any status */
	SENSE,       /* any sense key, ASC and ASCQ, fixed format */
	DESCRIPTOR,  /* ... descriptor format */
	RAW_SENSE,   /* any bytes */
	QUIET_SENSE, /* sense data beside GOOD */
	RESIDUAL,    /* any residual */
	LENGTH,      /* the length in the payload is a lie */
	PAYLOAD,     /* some bytes of it are others */
	MANY_KEYS,   /* as many keys as there is room for */
	GENERATION,
	OTHER_HOST, /* acts just before */
	ATTENTION,  /* a unit attention waits */
	SILENT,     /* no answer, not executed */
	SILENT_DONE,
	DEAD,
	UNUSABLE,
	GOES, /* this path, for good */
	SLOW, /* seconds */
	LIES
};

/* What is wrong with the map. */
enum { MAP_BUSY = 1, MAP_BROKEN, MAP_OTHER, MAP_NAMELESS, MAP_RENAMED };

static const char *const names[] = { "naa.1", "naa.2" };

static struct input in;
static unsigned int options;
static struct target unit;
static int paths, others; /* nexuses of target.c, in this order */
static int here;          /* the path that a command is on */
static unsigned int lie;  /* about its answer */
static int said_good;     /* the device, at last */
static int64_t clock_ms;
static int shown; /* each step */
static struct {
	uint8_t dead, failed, unlisted;
} roads[PATHS_MAX];

/* Of the guest's command. */
static const struct request *guest;
static int sent, goods, maps, first_map, first_paths;
static char lent[WWID_LEN]; /* the unit that it is for */

static struct {
	uint8_t data[DATA_MAX];
} list, wire;

int64_t
now(void)
{
	return clock_ms;
}

void
wait_until(int64_t t)
{
	must(t - clock_ms <= SG_ABORT_TIME, "nobody waits for ever");
	if (t > clock_ms)
		clock_ms = t;
}

/* Messages go nowhere, if they are not asked for. */
int
poll(struct pollfd *p, nfds_t n, int ms)
{
	(void)p;
	(void)n;
	(void)ms;
	return shown;
}

/* A decision of the devices'. */
static unsigned int
trouble(void)
{
	return options & HONEST ? NOTHING : last_byte(&in);
}

static dev_t
dev_of(int i)
{
	return makedev(8, 16 * (unsigned int)i);
}

static int
path_of(dev_t dev)
{
	int i = (int)minor(dev) / 16;

	must(major(dev) == 8 && i < paths && dev_of(i) == dev,
	    "a command goes to a path of the map");
	return i;
}

/* Few keys, so that they meet; 0 is none. */
static uint64_t
key_of(unsigned int b)
{
	return b == UINT8_MAX ? UINT64_MAX : b % 4 ? 0xa0 + b % 4 : 0;
}

/* device-mapper */

static int
read_map(struct map *m)
{
	unsigned int wrong = trouble();
	int i, r = DM_MAP;

	switch (wrong) {
	case MAP_BUSY: r = DM_BUSY; break;
	case MAP_BROKEN: r = DM_BROKEN; break;
	case MAP_OTHER: r = DM_OTHER; break;
	}
	memset(m, 0, sizeof(*m));
	m->dev = makedev(MAP_MAJOR, 0);
	m->group = 1;
	for (i = 0; i < paths; i++) {
		if (roads[i].unlisted)
			continue;
		m->paths[m->n].dev = dev_of(i);
		m->paths[m->n].active = !roads[i].failed;
		m->paths[m->n++].group = 1 + i % 2;
	}
	if (m->n && wrong != MAP_NAMELESS)
		snprintf(m->wwid, sizeof(m->wwid), "%s",
		    names[wrong == MAP_RENAMED]);
	/* While a unit is borrowed a command is for that one only. */
	if (!guest || !state_busy())
		memcpy(lent, m->wwid, sizeof(lent));
	if (maps++ == 0) {
		first_map = r;
		first_paths = m->n;
	}
	return r;
}

int
dm_read(dev_t dev, struct map *m, int named)
{
	int r = dev == makedev(MAP_MAJOR, 0) ? read_map(m) : DM_OTHER;

	if (!named)
		m->wwid[0] = '\0';
	return r;
}

int
dm_use_path(const struct map *m, dev_t dev, int use)
{
	unsigned int i = minor(dev) / 16;

	must(m->dev == makedev(MAP_MAJOR, 0), "a message is for the map");
	/* One of a predecessor's may be of no map any more. */
	if (trouble() == 1 || major(dev) != 8 || i >= PATHS_MAX)
		return -1;
	roads[i].failed = !use;
	return 0;
}

int
dm_use_group(const struct map *m, int group)
{
	must(group >= 1 && group <= 2, "a message is for a group of the map");
	return m->n ? 0 : -1;
}

int
dm_queues(const struct map *m)
{
	(void)m;
	return (options & QUEUES) != 0;
}

/* Paths */

uint64_t
path_size(dev_t dev)
{
	path_of(dev);
	return !(options & BUSY_PATHS);
}

void
path_rescan(dev_t dev)
{
	path_of(dev);
}

int
path_busy(dev_t dev)
{
	path_of(dev);
	return (options & BUSY_PATHS) != 0;
}

int
path_open(dev_t dev, const char *wwid, uint8_t *how)
{
	(void)dev;
	(void)wwid;
	*how = SG_DEAD;
	return -1;
}

/* Devices */

/* Somebody else's OUT; what is asked for comes from where next() reads. */
static void
another_acts(unsigned int (*next)(struct input *))
{
	static uint8_t params[DATA_MAX];
	struct request rq = { .fd = -1, .len = PARAMS_LEN, .data = params };
	struct reply rp;
	unsigned int who = next(&in);

	if (!others)
		return;
	memset(params, 0, PARAMS_LEN);
	rq.cdb[0] = PR_OUT;
	rq.cdb[1] = next(&in) % (REGISTER_AND_IGNORE + 1);
	rq.cdb[2] = next(&in) % 16;
	rq.cdb[8] = PARAMS_LEN;
	put64(params, key_of(next(&in)));
	put64(params + 8, key_of(next(&in)));
	target_run(&unit, paths + (int)(who % (unsigned int)others), &rq, &rp);
}

/* What is wrong before the command reaches the unit; 1: it does not. */
static int
fail_before(struct sg_io_hdr *h)
{
	static const int errors[] = { EIO, EBADF, EPERM, EACCES, EINVAL,
		ENOTTY, EMSGSIZE, E2BIG, ENODEV, ENXIO, ENOENT, ENOMEM, EAGAIN,
		EBUSY, EDOM, EINTR };

	switch (lie) {
	case ERRNO:
		errno = errors[last_byte(&in) % (sizeof(errors) /
		    sizeof(errors[0]))];
		return -1;
	case HOST: h->host_status = (uint16_t)(1 + last_byte(&in)); return 1;
	case OTHER_HOST: another_acts(last_byte); return 0;
	case ATTENTION:
		target_attention(&unit, here,
		    (uint16_t)(0x2900 + last_byte(&in) * 0x20));
		return 0;
	default: return 0;
	}
}

static void
give_sense(struct sg_io_hdr *h)
{
	unsigned int i, n;
	uint32_t sense = last_byte(&in) % 16;

	sense = sense << 8 | last_byte(&in);
	sense = sense << 8 | last_byte(&in);
	h->status = lie == QUIET_SENSE ? GOOD : CHECK_CONDITION;
	memset(h->sbp, 0, SENSE_LEN);
	h->sb_len_wr = SHORT_SENSE;
	switch (lie) {
	case SENSE:
	case QUIET_SENSE:
		h->sbp[0] = 0x70;
		h->sbp[2] = (uint8_t)(sense >> 16);
		h->sbp[12] = (uint8_t)(sense >> 8);
		h->sbp[13] = (uint8_t)sense;
		break;
	case DESCRIPTOR:
		h->sbp[0] = 0x72;
		for (i = 1; i < 4; i++)
			h->sbp[i] = (uint8_t)(sense >> (24 - 8 * i));
		break;
	default:
		n = last_byte(&in) % (SENSE_LEN + 1);
		for (i = 0; i < n; i++)
			h->sbp[i] = (uint8_t)last_byte(&in);
		h->sb_len_wr = (uint8_t)n;
		return;
	}
	must(proto_sense_of(h->sbp) == sense, "sense data is understood");
}

static uint32_t
last_word(void)
{
	uint32_t v = last_byte(&in);

	v = v << 8 | last_byte(&in);
	v = v << 8 | last_byte(&in);
	return v << 8 | last_byte(&in);
}

/* What is wrong with the payload of an IN. */
static void
spoil(struct sg_io_hdr *h)
{
	uint8_t *p = h->dxferp;
	uint32_t i, n = h->dxfer_len, at;

	if (lie == RESIDUAL)
		h->resid = (int)last_word();
	if (lie == LENGTH && n >= 8)
		put32(p + 4, last_byte(&in) % 2 ? last_word() :
						  last_byte(&in));
	if (lie == GENERATION && n >= 4)
		put32(p, get32(p) + last_byte(&in));
	if (lie == PAYLOAD) {
		at = last_byte(&in);
		for (i = last_byte(&in) % 32; i > 0 && at < n; i--)
			p[at++] = (uint8_t)last_byte(&in);
	}
	if (lie == MANY_KEYS && n >= 8) {
		put32(p + 4, n - 8);
		at = last_byte(&in) % 2;
		for (i = 8; i + 8 <= n; i += 8)
			put64(p + i, at && i > 32 ? i : key_of(last_byte(&in)));
		h->resid = 0;
	}
}

static void
fail_after(struct sg_io_hdr *h)
{
	switch (lie) {
	case HOST_AFTER:
		h->status = GOOD;
		h->host_status = (uint16_t)(1 + last_byte(&in));
		break;
	case DRIVER: h->driver_status = (uint16_t)last_byte(&in); break;
	case STATUS: h->status = (uint8_t)last_byte(&in); break;
	case QUIET_SENSE: h->driver_status = DRIVER_SENSE; /* fall through */
	case SENSE:
	case DESCRIPTOR:
	case RAW_SENSE: give_sense(h); break;
	default:
		if (h->dxfer_direction == SG_DXFER_FROM_DEV)
			spoil(h);
	}
}

/* The unit executes it: as sg hands it to a driver, and back. */
static int
execute(struct sg_io_hdr *h)
{
	static uint8_t data[DATA_MAX];
	struct request rq = { .fd = -1, .len = h->dxfer_len, .data = data };
	struct reply rp;
	int r = fail_before(h);

	if (r)
		return r < 0 ? -1 : 0;
	memcpy(rq.cdb, h->cmdp, h->cmd_len);
	if (h->dxfer_direction == SG_DXFER_TO_DEV)
		memcpy(data, h->dxferp, rq.len);
	else if (rq.len)
		memset(data, 0, rq.len);
	target_run(&unit, here, &rq, &rp);
	if (h->dxfer_direction == SG_DXFER_FROM_DEV)
		memcpy(h->dxferp, data, rp.len);
	h->resid = h->dxfer_direction == SG_DXFER_FROM_DEV ?
	    (int)(rq.len - rp.len) : 0;
	h->status = rp.status;
	if (rp.status == CHECK_CONDITION) {
		memcpy(h->sbp, rp.sense, SHORT_SENSE);
		h->sb_len_wr = SHORT_SENSE;
	}
	fail_after(h);
	return 0;
}

int
ioctl(int fd, unsigned long request, ...)
{
	struct sg_io_hdr *h;
	int r, driver;
	va_list ap;

	va_start(ap, request);
	h = va_arg(ap, struct sg_io_hdr *);
	va_end(ap);
	must(fd == FAKE_FD && request == SG_IO, "a command is for its path");
	must(h->mx_sb_len == SENSE_LEN && h->dxfer_len <= DATA_MAX,
	    "buffers have their sizes");
	must((h->dxfer_direction == SG_DXFER_NONE) == (h->dxfer_len == 0),
	    "no data in no direction");
	clock_ms++;
	r = execute(h);
	driver = h->driver_status & DRIVER_MASK;
	said_good = r == 0 && h->status == GOOD && !h->host_status &&
	    (driver == 0 || driver == DRIVER_SENSE);
	return r;
}

/* Is this one that may be sent? */
UNCOUNTED static void
judge_job(const struct job *j, const char *wwid)
{
	const struct request *rq = &j->rq;
	int action = rq->cdb[1] & ACTION_MASK;

	path_of(j->dev);
	must(wwid[0] ? strcmp(wwid, lent) == 0 : rq->cdb[0] == PR_IN,
	    "a command is for the logical unit that was borrowed");
	must(rq->len <= DATA_MAX, "there is room for the data");
	switch (rq->cdb[0]) {
	case TEST_UNIT_READY: must(rq->len == 0, "it has no data"); break;
	case PR_IN:
		must(rq->len == (uint32_t)(rq->cdb[7] << 8 | rq->cdb[8]),
		    "as much room as the CDB says");
		break;
	default:
		must(rq->cdb[0] == PR_OUT && get32(rq->cdb + 5) == rq->len,
		    "a list is as long as the CDB says");
		must(action <= REGISTER_AND_IGNORE,
		    "what is not for many paths is not sent to one");
		must(rq->len == PARAMS_LEN ||
		    (guest && first_paths <= 1 && rq->len == guest->len &&
			rq->len > PARAMS_LEN && rq->data[20] & SPEC_I_PT),
		    "TransportIDs are for one path only");
	}
}

/* Nothing comes back; it may have been executed. */
static void
be_silent(struct job *j, int patience)
{
	struct reply rp;

	if (lie == SILENT_DONE) {
		lie = NOTHING;
		send_one(&j->rq, &rp, j->dev);
	}
	clock_ms += patience;
	proto_sense(&j->rp, COMMAND_TIMEOUT);
	j->how = SG_SILENT;
}

/* Sense data of a success may come with any status. */
static int
succeeded(const struct reply *rp)
{
	return rp->status == GOOD || (rp->status == CHECK_CONDITION &&
	    proto_sense_of(rp->sense) >> 16 <= RECOVERED_ERROR);
}

/* One command to one path, as a walker of sg.c does it. */
static void
run_job(struct job *j, int patience)
{
	struct request rq = j->rq;

	here = path_of(j->dev);
	lie = trouble();
	if (lie == GOES)
		roads[here].dead = 1;
	rq.fd = FAKE_FD;
	rq.data = wire.data;
	if (rq.cdb[0] == PR_OUT)
		memcpy(rq.data, j->rq.data, rq.len);
	if (roads[here].dead || lie == DEAD || lie == UNUSABLE) {
		proto_sense(&j->rp, LU_COMM_FAILURE);
		j->how = lie == UNUSABLE ? SG_UNUSABLE : SG_DEAD;
		return;
	}
	if (lie == SILENT || lie == SILENT_DONE) {
		j->rq.fd = FAKE_FD;
		be_silent(j, patience);
		return;
	}
	if (lie == SLOW)
		clock_ms += patience;
	j->how = send_one(&rq, &j->rp, j->dev);
	must(j->rp.len <= rq.len && (j->rp.len == 0 || rq.cdb[0] == PR_IN),
	    "no more than there is room for");
	if (j->rp.len > 0)
		memcpy(j->rq.data, rq.data, j->rp.len);
	must(j->how != SG_ANSWERED || j->rp.status != GOOD || said_good,
	    "GOOD is what a device said");
	goods += j->how == SG_ANSWERED && succeeded(&j->rp);
}

void
sg_batch(struct job *jobs, int n, const char *wwid, int patience)
{
	int i, k;

	must(n >= 0 && n <= PATHS_MAX, "a job for each path at most");
	must(patience > 0 && patience <= SG_ABORT_TIME + PATIENCE,
	    "nobody waits for ever");
	for (i = 0; i < n; i++) {
		must(++sent < SENT_MAX, "a command comes to an end");
		judge_job(&jobs[i], wwid);
		for (k = i < 4 ? 0 : i; k < i; k++)
			must(jobs[k].dev != jobs[i].dev, "one on a path");
		run_job(&jobs[i], i < n - 1 ? PATIENCE : patience);
	}
}

/* The guest */

/* What must be refused before any path has heard of it; 0: nothing. */
static uint32_t
refusal(const struct request *rq)
{
	int named = rq->len > 20 && rq->data[20] & SPEC_I_PT;

	if (rq->cdb[0] != PR_OUT || first_map != DM_MAP ||
	    (rq->cdb[1] & ACTION_MASK) > REGISTER_AND_IGNORE)
		return 0;
	if (rq->len < PARAMS_LEN || (rq->len > PARAMS_LEN && !named))
		return PARAMS_LENGTH;
	return named && first_paths > 1 ? INVALID_PARAM : 0;
}

/* What any reply has to be, whatever a device says. */
UNCOUNTED static void
judge_reply(const struct request *rq, const struct reply *rp)
{
	static const uint8_t none[SENSE_LEN];
	uint8_t unset[SENSE_LEN];

	memset(unset, 0xdd, sizeof(unset));
	must(memcmp(rp->sense, unset, SENSE_LEN) != 0, "a reply is filled in");
	must(rp->len <= rq->len, "a payload has room");
	must(rp->len == 0 || (rq->cdb[0] == PR_IN && rp->status == GOOD),
	    "only an IN that is GOOD has a payload");
	if (rp->status == CHECK_CONDITION && options & HONEST)
		must(memcmp(rp->sense, none, SENSE_LEN) != 0,
		    "a refusal says why");
}

static void
run_guest(struct request *rq)
{
	static uint8_t was[DATA_MAX];
	int out = rq->cdb[0] == PR_OUT;
	uint32_t i, wrong, size = rq->len < DATA_MAX - GUARD ? GUARD : 0;
	int64_t began = clock_ms;
	struct reply rp;

	memset(&rp, 0xdd, sizeof(rp));
	memset(rq->data + rq->len, 0xa5, size);
	if (out)
		memcpy(was, rq->data, rq->len);
	guest = rq;
	sent = goods = maps = first_paths = 0;
	trace(TRACE_REQUEST, "%s len=%u", proto_name(rq->cdb), rq->len);
	mpath_run(rq, &rp);
	trace(TRACE_REPLY, "status=%02x sense=%06x len=%u ms=%lld", rp.status,
	    proto_sense_of(rp.sense), rp.len, (long long)(clock_ms - began));
	guest = NULL;
	judge_reply(rq, &rp);
	for (i = rq->len; i < rq->len + size; i++)
		must(rq->data[i] == 0xa5, "nothing is written behind it");
	if (out && rq->len > 20)
		was[20] &= (uint8_t)(~FLAG_ALL_TG_PT | rq->data[20]);
	must(!out || memcmp(was, rq->data, rq->len) == 0,
	    "but for ALL_TG_PT the guest's list stays as it was");
	wrong = refusal(rq);
	if (wrong)
		must(sent == 0 && rp.status == CHECK_CONDITION &&
		    proto_sense_of(rp.sense) == wrong,
		    "a list that not all paths can have is refused at once");
	must(rp.status != GOOD || goods || rq->cdb[0] == PR_CLEANUP,
	    "GOOD is never made up");
	must(rp.status != GOOD || !out ||
	    (rq->cdb[1] & ACTION_MASK) <= REGISTER_AND_IGNORE,
	    "what cannot be done is not GOOD");
	must(clock_ms - began <= RUN_TIME + (out &&
	    (rq->cdb[1] & ACTION_MASK) == PREEMPT_AND_ABORT ?
	    2 * SG_ABORT_TIME : 0), "a command comes to an end in time");
	must(!state_busy(), "what is remembered is given back");
}

/* A plain disk: its answer, and nothing else. */
static void
run_plain(struct request *rq)
{
	struct reply rp;

	memset(&rp, 0xdd, sizeof(rp));
	here = 0;
	lie = trouble();
	rq->fd = FAKE_FD;
	said_good = 0;
	sg_run(rq, &rp);
	judge_reply(rq, &rp);
	must(rp.status != GOOD || said_good || rq->cdb[0] == PR_CLEANUP,
	    "GOOD is what a device said");
}

static void
make_out(struct request *rq, unsigned int action)
{
	memset(rq->cdb, 0, CDB_LEN);
	rq->cdb[0] = PR_OUT;
	rq->cdb[1] = (uint8_t)action;
	rq->cdb[2] = (uint8_t)byte(&in);
	memset(rq->data, 0, PARAMS_LEN);
	put64(rq->data, key_of(byte(&in)));
	put64(rq->data + 8, key_of(byte(&in)));
	rq->len = PARAMS_LEN;
}

/* Any list, of any length; it goes on with zeros. */
static void
make_raw(struct request *rq)
{
	unsigned int i, n;

	make_out(rq, byte(&in));
	rq->len = byte(&in);
	rq->len = (rq->len << 8 | byte(&in)) % (DATA_MAX + 1);
	memset(rq->data + PARAMS_LEN, 0, DATA_MAX - PARAMS_LEN);
	n = byte(&in);
	for (i = 0; i < n; i++)
		rq->data[16 + i] = (uint8_t)byte(&in);
}

/* A list with TransportIDs; how long they are may be a lie. */
static void
make_named(struct request *rq, unsigned int action)
{
	unsigned int i, n;

	make_out(rq, action);
	rq->data[17] = rq->data[20] = (uint8_t)(byte(&in) | SPEC_I_PT);
	n = byte(&in);
	put32(rq->data + PARAMS_LEN, n % 2 ? n - 1 : byte(&in) << 8 | n);
	for (i = 0; i < n; i++)
		rq->data[PARAMS_LEN + 4 + i] = (uint8_t)byte(&in);
	rq->len = PARAMS_LEN + 4 + n;
}

static void
make_in(struct request *rq, unsigned int action)
{
	memset(rq->cdb, 0, CDB_LEN);
	rq->cdb[0] = PR_IN;
	rq->cdb[1] = (uint8_t)action;
	rq->len = byte(&in);
	rq->len = (rq->len << 8 | byte(&in)) % (DATA_MAX + 1);
	rq->cdb[7] = (uint8_t)(rq->len >> 8);
	rq->cdb[8] = (uint8_t)rq->len;
}

/* A request, as proto_read() may let it in. */
static void
make(struct request *rq, unsigned int op)
{
	switch (op % 8) {
	case 0: make_raw(rq); break;
	case 1: make_named(rq, op >> 4); break;
	case 2: make_in(rq, op >> 4); break;
	case 3:
		memset(rq->cdb, 0, CDB_LEN);
		rq->cdb[0] = PR_CLEANUP;
		rq->len = 0;
		break;
	default:
		make_out(rq, op >> 4);
		rq->data[20] = op & 3 ? 0 : (uint8_t)byte(&in);
	}
	if (rq->cdb[0] == PR_OUT)
		put32(rq->cdb + 5, rq->len);
	rq->dev = makedev(MAP_MAJOR, 0);
}

/* Forget it, or know what a predecessor may have written down. */
static void
remember(int i, int loaded)
{
	struct lun *l = state_get(names[i], TURN_TIME);
	struct mark *m;
	unsigned int n;
	int first;

	must(l != NULL, "nobody else has it");
	memset(l, 0, offsetof(struct lun, marks));
	snprintf(l->wwid, sizeof(l->wwid), "%s", names[i]);
	if (loaded) {
		l->loaded = 1;
		l->key = key_of(byte(&in));
		l->old = key_of(byte(&in));
		l->changing = byte(&in) % 2;
		l->ghosts = (uint8_t)byte(&in);
		l->aptpl = byte(&in) % (APTPL_ON + 1);
		n = byte(&in);
		l->holder = n % 2 ? dev_of((int)n / 2 % paths) : 0;
		l->map = makedev(MAP_MAJOR, n == UINT8_MAX);
		first = (int)byte(&in);
		for (n = byte(&in); n > 0 && l->n < MARKS_MAX; n--) {
			m = &l->marks[l->n];
			m->dev = dev_of(first + l->n++);
			m->mark = byte(&in) % (MARK_TAINTED + 1);
			m->failed = m->mark && byte(&in) % 2;
		}
	}
	l->busy = 1;
	state_put(l);
}

/* A path goes, returns, leaves the map or comes into it. */
static void
turn(unsigned int how, unsigned int which)
{
	int i = (int)(which % (unsigned int)paths);

	roads[i].dead = how & 1;
	roads[i].failed = how >> 1 & 1;
	roads[i].unlisted = how >> 2 & 1;
	if (how & 8)
		target_replace(&unit, i);
}

static void
look_after(void)
{
	int64_t began = clock_ms;
	int ms;

	sent = first_paths = 0;
	trace(TRACE_REQUEST, "look");
	ms = mpath_look();
	must(ms > 0 && ms <= LOOK_TIME, "the next look is soon, not now");
	must(clock_ms - began <= 2 * RUN_TIME, "a look comes to an end");
	must(!state_busy(), "what is remembered is given back");
}

static void
happen(void)
{
	struct request rq = { .data = list.data };
	unsigned int op = byte(&in);

	if (op == UINT8_MAX) { /* what follows is for the devices */
		in.p = in.end;
		return;
	}
	if (op % 16 < 8) {
		make(&rq, op);
		run_guest(&rq);
		return;
	}
	switch (op % 16) {
	case 8: look_after(); break;
	case 9: another_acts(byte); break;
	case 10: turn(op >> 4, byte(&in)); break;
	case 11: remember(op >> 7, 1); break;
	case 12: clock_ms += 100 * byte(&in); break;
	case 13:
		make(&rq, byte(&in));
		run_plain(&rq);
		break;
	case 14: target_power_loss(&unit); break;
	default: target_attention(&unit, (int)byte(&in) % paths, 0x2a03);
	}
}

static void
begin(void)
{
	unsigned int n;
	int i;

	options = byte(&in);
	n = byte(&in);
	paths = n < 192 ? 1 + (int)n % 4 : n < 252 ? 1 + (int)n % 8 : PATHS_MAX;
	others = (int)byte(&in) % 3;
	memset(&unit, 0, sizeof(unit));
	unit.kind = (enum kind)(options % 4 % KINDS);
	unit.holder = NOBODY;
	unit.full_status = 1;
	unit.n = paths + others;
	for (i = 0; i < unit.n; i++)
		unit.nexus[i].initiator = (uint8_t)(1 + i % 3);
	memset(roads, 0, sizeof(roads));
	clock_ms = 1;
	guest = NULL;
	memset(list.data, 0, sizeof(list.data));
	remember(0, 0);
	remember(1, 0);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	shown = getenv("SHOW") != NULL;
	memset(tracing, shown, sizeof(tracing));
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	in.p = data;
	in.end = data + size;
	verbosity = LOG_ERRORS;
	begin();
	while (in.p < in.end)
		happen();
	return 0;
}
