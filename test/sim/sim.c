/* See LICENSE file for copyright and license details. */
/*
 * A simulator for mpath.c, which it links as it is, with proto.c and util.c.
 *
 *	sim [-ckvw] [-j JOBS] [-n N] [-s SEED] [-t SECONDS]
 *	sim [-vw] -r FILE
 *	sim -f SEED
 *
 * A schedule is what one seed decides: the kind of target, the paths, what
 * goes wrong how often, which other hosts there are, and the commands of one
 * guest, which go through mpath_run(). After each command invariant.c looks
 * whether all is as it must be, and history.c whether it stays so: while time
 * passes prhelper looks after its paths through mpath_look(), is killed and
 * started again. In one schedule of four it does not, and forgets what it
 * knew: there each command has to be right by itself.
 *
 * -s runs one schedule, or with -n N of them from that seed on, or with -t as
 * many as the time allows, by as many processes as -j says; -v shows each
 * step, -c how often what happened.
 * When something is not as it must be, the schedule is shortened as long as
 * it shows the same, and kept in a file, which -r runs; or -k just goes on
 * with the next seed. prhelper's messages are part of what -v shows; without
 * it they are left out but with -w, which also leaves standard error to the
 * sanitizers. Exit status: 1 if something was not.
 *
 *	target.c	one logical unit by SPC-4; how LIO and SPDK differ
 *	fabric.c	paths, faults, time: the other side of the seam
 *	event.c		what others do to the paths, the map and the target
 *	invariant.c	what must be true after each command: look there first
 *	history.c	... and in the long run
 *	chance.c	decisions: by a seed, or by a list that can be shortened
 *	sim.c		schedules, guest, other hosts
 *
 * -f prints a schedule for a comparison with the real target of Linux, with
 * what the simulated one answered. It is for a map "mp" of four paths p1 to
 * p4 in one path group and two more nexuses o1 and o2 of the same logical
 * unit, which are new and were made in this order, from the first initiator
 * on, as path() of test/vm/lib.sh does it. One line for each step:
 *
 *	mp CDB[:LIST] => ANSWER	a command of the guest, through prhelper
 *	pN CDB => ANSWER	an IN to that path alone, not through the map
 *	oN CDB[:LIST] => ANSWER	a command of another host
 *	down pN			device/state of the path gets "offline"
 *	up pN			... "running", which swallows unit attentions
 *	settle oN CDB => ANSWER	prhelper has had time to look after its paths
 *
 * in which CDB, LIST and ANSWER are as prc takes and prints them. The whole
 * line must be the same on both sides, PRGENERATION too, as the same mpath.c
 * sends the same probes; but where the answer has an x any digit will do:
 * after a settle nobody knows how often prhelper has looked. To down and up
 * there is no answer. settle comes where prhelper acts by itself: its command,
 * a READ KEYS, is repeated every 100 ms until the answer is as it says (at
 * most 10 s, then it is wrong), and then nothing is done for 700 ms.
 */
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "sim.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	WRONG_KEY = 0xbad,
	OTHER_KEY = 0xb1, /* of the first other nexus, and so on */
	OLD_SHARE = 4,    /* of so many seeds one is of the old kind */
	RARE_SHARE = 8,   /* ... and one has what is rare elsewhere */
	CONTENT_TIME = 2000, /* after the last fault all is settled by then */
	LOOKS_MAX = 1000, /* without time passing */
	JOBS_MAX = 64,
	FAITHFUL_PATHS = 4,
	FAITHFUL_OTHERS = 2,
};

enum { IN_ROW = REPLACE_LOST + 1, CLEANUP_ROW, ROWS };
enum { COL_GOOD, COL_CONFLICT, COL_CHECK, COL_BUSY, COLS };

static uint64_t seed;
static unsigned long counts[ROWS][COLS];
static FILE *err;
static jmp_buf give_up, death;
static int keep, compare, failed, warnings, settled, shrinking;
static const char *wrong, *first_wrong; /* the sentence that was broken */
static char schedule[80]; /* how to see it again: options */
static time_t late;       /* 0: never */
int noting;

/* What this schedule is like, in 1,000. */
static struct {
	int down, up, host, same_key, wrong, restart;
	int daemon, table, power, rest, replaced;
	int steps;
	uint8_t flags; /* that the guest likes */
} s;

/* The trace */

void
note(const char *fmt, ...)
{
	va_list ap;

	if (!noting)
		return;
	printf("%7lld.%03lld ", (long long)w.clock / 1000,
	    (long long)w.clock % 1000);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

void
violated(const char *fmt, ...)
{
	va_list ap;

	wrong = fmt;
	if (!shrinking) {
		fflush(stdout);
		fprintf(err, "%s: not so: ", schedule);
		va_start(ap, fmt);
		vfprintf(err, fmt, ap);
		va_end(ap);
		fputc('\n', err);
		fflush(err);
		failed = 1;
	}
	longjmp(give_up, 1);
}

const char *
words(const struct request *rq)
{
	static char buf[160];

	if (!noting)
		return "";
	if (rq->cdb[0] == PR_OUT && rq->len >= PARAMS_LEN)
		snprintf(buf, sizeof(buf),
		    "%s type %d key %llx, %llx flags %02x len %u",
		    proto_name(rq->cdb), rq->cdb[2],
		    (unsigned long long)get64(rq->data),
		    (unsigned long long)get64(rq->data + 8), rq->data[20],
		    rq->len);
	else
		snprintf(buf, sizeof(buf), "%s (%d) len %u",
		    proto_name(rq->cdb), rq->cdb[1] & ACTION_MASK, rq->len);
	return buf;
}

const char *
answer(const struct reply *rp)
{
	static char buf[40];
	uint32_t sense = proto_sense_of(rp->sense);

	if (rp->status == CHECK_CONDITION)
		snprintf(buf, sizeof(buf), "CHECK %xh/%02xh/%02xh", sense >> 16,
		    sense >> 8 & 0xff, sense & 0xff);
	else
		snprintf(buf, sizeof(buf), "%s",
		    rp->status == GOOD ? "GOOD" :
		    rp->status == BUSY ? "BUSY" :
		    rp->status == RESERVATION_CONFLICT ?
					 "CONFLICT" :
					 "TASK SET FULL");
	return buf;
}

static const char *
nexus_name(int i)
{
	static char buf[24];

	if (i < w.paths)
		snprintf(buf, sizeof(buf), "p%d", i + 1);
	else if (i < w.paths + w.others)
		snprintf(buf, sizeof(buf), "o%d", i + 1 - w.paths);
	else
		snprintf(buf, sizeof(buf), "ghost%d",
		    i + 1 - w.paths - w.others);
	return buf;
}

/* The logical unit in one line: keys by path, then of the others. */
static void
show(void)
{
	static const char *const states[] = { "", "(off)", "(blocked)" };
	static const char *const marks[] = { "unknown", "clean", "to set",
		"to clear", "gone", "robbed", "tainted" };
	char line[NEXUS_MAX * 40], *p = line;
	struct mark *m;
	int i;

	if (!noting)
		return;
	for (i = 0; i < w.lun.n; i++)
		p += sprintf(p, " %s%s%s=%llx", nexus_name(i),
		    i < w.paths ? states[w.road[i].state] : "",
		    i >= w.paths	    ? "" :
			w.road[i].unlisted  ? "(away)" :
			w.road[i].gated	    ? "(gated)" :
			w.road[i].failed    ? "(failed)" :
					      "",
		    (unsigned long long)w.lun.nexus[i].key);
	if (w.lun.holder != NOBODY)
		p += sprintf(p, "; type %d, holder %s", w.lun.type,
		    nexus_name(w.lun.holder));
	note("  =%s", line);
	p = line + sprintf(line, "  the guest has %s; remembered key %llx",
		      history_keys(), (unsigned long long)w.state.key);
	if (w.state.changing)
		p += sprintf(p, ", changing from %llx",
		    (unsigned long long)w.state.old);
	if (w.state.holder)
		p += sprintf(p, ", holder p%u",
		    minor(w.state.holder) / 16 + 1);
	for (m = w.state.marks; m < w.state.marks + w.state.n; m++)
		p += sprintf(p, " p%u %s%s", minor(m->dev) / 16 + 1,
		    m->mark < LEN(marks) ? marks[m->mark] : "other",
		    m->failed ? " failed" : "");
	note("%s", line);
}

/* Commands */

static void
make_in(struct request *rq, int action, uint32_t len)
{
	memset(rq->cdb, 0, CDB_LEN);
	rq->cdb[0] = PR_IN;
	rq->cdb[1] = (uint8_t)action;
	rq->cdb[7] = (uint8_t)(len >> 8);
	rq->cdb[8] = (uint8_t)len;
	rq->len = len;
}

static void
make_out(struct request *rq, int action, int type, uint64_t key, uint64_t sa,
    uint8_t flags)
{
	memset(rq->cdb, 0, CDB_LEN);
	memset(rq->data, 0, PARAMS_LEN);
	rq->cdb[0] = PR_OUT;
	rq->cdb[1] = (uint8_t)action;
	rq->cdb[2] = (uint8_t)type;
	rq->len = rq->cdb[8] = PARAMS_LEN;
	put64(rq->data, key);
	put64(rq->data + 8, sa);
	rq->data[20] = flags;
}

/* How the parameter list of an OUT can be wrong. */
static void
spoil(struct request *rq)
{
	static const uint32_t lens[] = { 0, 8, 16, 23, 25, 28, 52, DATA_MAX };

	if (chance(400)) {
		rq->len = lens[draw(LEN(lens))];
		put32(rq->cdb + 5, rq->len);
		if (rq->len > PARAMS_LEN)
			memset(rq->data + PARAMS_LEN, 0, rq->len - PARAMS_LEN);
	} else if (chance(500)) {
		rq->data[20] |= chance(500) ? FLAG_SPEC_I_PT : FLAG_ALL_TG_PT;
	} else {
		rq->cdb[1] = (uint8_t)(REGISTER_AND_MOVE + draw(25));
	}
}

static uint64_t
guest_key(void)
{
	return GUEST_KEY + draw(KEYS);
}

static uint8_t
some_type(void)
{
	static const uint8_t types[] = { 1, 3, 5, 6, 7, 8, 5, 5, 7 };

	return types[draw(LEN(types))];
}

/* What the guest has: the key of most of its paths, which it may not know. */
static uint64_t
had_key(void)
{
	int i, best = 0, n[KEYS] = { 0 };
	uint64_t key;

	for (i = 0; i < w.paths; i++) {
		key = w.lun.nexus[i].key - GUEST_KEY;
		if (key < KEYS && ++n[key] > n[best])
			best = (int)key;
	}
	return n[best] ? (uint64_t)(GUEST_KEY + best) : 0;
}

/* The key of one of the other nodes, if any has one. */
static uint64_t
victim(void)
{
	int others = w.others;

	if (!others || chance(100))
		return WRONG_KEY;
	return w.lun.nexus[w.paths + (int)draw((uint32_t)others)].key;
}

static void
draw_in(struct request *rq)
{
	static const uint16_t lens[] = { DATA_MAX, 255, 8, 24, 40, 0, 4, 21,
		100 };
	int action = chance(950) ? (int)draw(4) : 4 + (int)draw(28);

	make_in(rq, action, chance(600) ? DATA_MAX : lens[draw(LEN(lens))]);
}

/* An OUT of somebody who has a key, or none. */
static void
draw_out(struct request *rq, uint64_t key, uint64_t new)
{
	uint8_t flags = s.flags;
	int n = (int)draw(100);
	int type = w.lun.type && chance(800) ? w.lun.type : some_type();

	if (!key && n < 85) {
		make_out(rq, n < 55 ? REGISTER : REGISTER_AND_IGNORE, 0, 0,
		    new, flags);
		return;
	}
	if (n < 8)
		make_out(rq, REGISTER, 0, key, new, flags);
	else if (n < 14)
		make_out(rq, REGISTER_AND_IGNORE, 0, 0, new, flags);
	else if (n < 22)
		make_out(rq, chance(600) ? REGISTER : REGISTER_AND_IGNORE, 0,
		    key, 0, flags);
	else if (n < 46)
		make_out(rq, RESERVE, type, key, 0, 0);
	else if (n < 66)
		make_out(rq, RELEASE, type, key, 0, 0);
	else if (n < 71)
		make_out(rq, CLEAR, 0, key, 0, 0);
	else
		make_out(rq, chance(700) ? PREEMPT : PREEMPT_AND_ABORT, type,
		    key, chance(750) ? victim() : chance(600) ? key : 0, 0);
}

static void
draw_guest(struct request *rq)
{
	uint64_t key = had_key();

	if (chance(200)) {
		draw_in(rq);
		return;
	}
	if (chance(20)) {
		memset(rq->cdb, 0, CDB_LEN);
		rq->cdb[0] = PR_CLEANUP;
		rq->len = 0;
		return;
	}
	if (chance(s.wrong))
		key = chance(500) ? WRONG_KEY : guest_key();
	draw_out(rq, key, guest_key());
	if (chance(s.wrong))
		rq->cdb[2] = (uint8_t)draw(32);
	if (chance(s.wrong / 2))
		spoil(rq);
}

/* What others do: events between, and if a schedule wants it in, commands */

void
other_host(void)
{
	static uint8_t data[DATA_MAX];
	int others = w.others;
	struct request rq = { .fd = -1, .data = data };
	struct reply rp;
	struct nexus *n;
	int i;

	if (!others)
		return;
	i = (int)draw((uint32_t)others);
	n = &w.lun.nexus[w.paths + i];
	draw_out(&rq, n->key,
	    chance(s.same_key) ? GUEST_KEY : (uint64_t)(OTHER_KEY + i));
	if ((rq.cdb[1] == PREEMPT || rq.cdb[1] == PREEMPT_AND_ABORT) &&
	    chance(600))
		put64(rq.data + 8, had_key());
	n->nua = 0;
	before();
	target_run(&w.lun, w.paths + i, &rq, &rp);
	note("o%d: %s: %s", i + 1, words(&rq), answer(&rp));
	after_other();
}

/* prhelper */

void
kill_helper(void)
{
	longjmp(death, 1);
}

/* It is gone; a new one knows what was written down. */
static void
succeed(void)
{
	int i;

	fabric_abandon();
	w.mortal = 0;
	guest_is_left();
	if (w.forgetful) {
		memset(&w.state, 0, sizeof(w.state));
		memset(&w.saved, 0, sizeof(w.saved));
		for (i = 0; i < w.paths; i++)
			w.road[i].noted = w.road[i].gated = 0;
	}
	if (s.replaced && chance(s.replaced))
		path_replaced();
	w.state = w.saved;
	w.state.busy = 0;
	w.state.loaded = 1;
	w.reborn = 1;
	w.look_at = w.clock + draw(chance(800) ? 100 : 5000);
	fabric_trouble(w.look_at);
	note("prhelper is started again");
	show();
}

void
look(void)
{
	static int64_t last;
	static int times;
	int i, ms;

	times = w.clock - last < 50 ? times + 1 : 0;
	last = w.clock;
	if (times > LOOKS_MAX)
		violated("looks come to an end");
	w.look_at = NEVER;
	look_begins();
	note("prhelper looks");
	if (setjmp(death)) {
		succeed();
		return;
	}
	w.mortal = 1;
	w.saw_map = 0;
	ms = mpath_look();
	w.mortal = 0;
	for (i = 0; i < w.paths; i++)
		w.road[i].seen_away |= w.saw_map && w.road[i].unlisted;
	if (ms >= 0 && w.clock + ms < w.look_at)
		w.look_at = w.clock + ms;
	if (w.sent)
		show();
	look_ends();
}

/* Between two commands of the guest each of these has its chance. */

static void
time_passes(void)
{
	fabric_pass(w.clock + draw(chance(900) ? 3000 : 120000));
}

static void
some_path_goes(void)
{
	path_down(s.down);
}

static void
paths_return(void)
{
	path_up(s.up);
}

static void
host_acts(void)
{
	while (chance(s.host))
		other_host();
}

/* prhelper is started anew; if it never looks, it remembers nothing. */
static void
restart(void)
{
	if (!chance(s.restart))
		return;
	if (!w.looks) {
		memset(&w.state, 0, sizeof(w.state));
	} else {
		note("prhelper is killed");
		succeed();
	}
}

static void
system_acts(void)
{
	if (chance(s.daemon))
		multipathd_acts();
	if (chance(s.table))
		table_changes();
	if (chance(s.power))
		target_fails();
}

/*
 * The last fault is over: soon all is settled, and nothing that prhelper did
 * to the map is left.
 */
static void
rest(void)
{
	int rate[FAULTS], i;
	int64_t begin, end;

	if (!w.looks)
		return;
	memcpy(rate, w.rate, sizeof(rate));
	note("from now on all works");
	fabric_heal();
	begin = w.calm_at;
	fabric_pass(begin);
	end = begin + CONTENT_TIME;
	while (!history_settled() && w.look_at <= end)
		fabric_pass(w.look_at);
	if (w.clock - begin > longest_settle)
		longest_settle = w.clock - begin;
	fabric_pass(end);
	show();
	if (!history_settled())
		violated("%d ms after the last fault each usable path has the "
			 "guest's key, or none if it has none", CONTENT_TIME);
	for (i = 0; i < w.paths; i++)
		if (w.road[i].gated && !w.road[i].unlisted)
			violated("no path is left failed by us: p%d", i + 1);
	memcpy(w.rate, rate, sizeof(rate));
}

static void
sometimes_rest(void)
{
	if (chance(s.rest))
		rest();
}

/* The first ones are those of schedules in which prhelper never looks. */
static void (*const events[])(void) = {
	time_passes,
	some_path_goes,
	paths_return,
	host_acts,
	restart,
	system_acts,
	sometimes_rest,
};
enum { OLD_EVENTS = 5 };

/* The guest */

static int
row_of(const struct request *rq)
{
	int action = rq->cdb[1] & ACTION_MASK;

	return rq->cdb[0] == PR_IN    ? IN_ROW :
	    rq->cdb[0] == PR_CLEANUP  ? CLEANUP_ROW :
	    action < REPLACE_LOST     ? action :
					REPLACE_LOST;
}

static void
run_guest(const struct request *rq, struct reply *rp)
{
	note("guest: %s", words(rq));
	memset(rp, 0xdd, sizeof(*rp));
	guest_begins(rq);
	if (setjmp(death)) {
		note("guest: the connection is lost");
		succeed();
		return;
	}
	w.mortal = w.looks;
	mpath_run(rq, rp);
	w.mortal = 0;
	/* It is told that there may be something to look after. */
	if (w.looks && rq->cdb[0] != PR_IN && w.look_at > w.clock)
		w.look_at = w.clock;
	note("guest: %s", answer(rp));
	show();
	if (!compare)
		guest_ends(rq, rp);
	counts[row_of(rq)][rp->status == GOOD ? COL_GOOD :
		rp->status == RESERVATION_CONFLICT ? COL_CONFLICT :
		rp->status == CHECK_CONDITION	   ? COL_CHECK :
						     COL_BUSY]++;
}

/* Schedules */

/* A fault is as often as this in a schedule that has it. */
static void
faults(void)
{
	int i;

	for (i = 0; i <= F_REFUSED; i++)
		w.rate[i] = chance(350) ? 2 + (int)draw(chance(800) ? 30 : 70)
					: 0;
	w.rate[F_MAP] = chance(100) ? 50 : 0;
	w.rate[F_STATE] = chance(50) ? 50 : 0;
}

static void
begin_unit(uint32_t n)
{
	int i, paths;

	paths = 1 + (int)draw(n < 60 ? 4 : n < 98 ? 8 : PATHS_MAX);
	fabric_reset((enum kind)draw(KINDS), paths,
	    (int)draw(FOREIGN_MAX / 2));
	w.lun.full_status = w.lun.kind != STRICT || chance(500);
	w.queues = chance(500);
	for (i = 0; i < w.lun.n; i++)
		w.lun.nexus[i].initiator =
		    (uint8_t)(1 + (i < paths ? i % 2 : i));
	for (i = 0; i < paths; i++) {
		w.road[i].group = (uint8_t)(i % 2 && n % 3 == 0);
		w.road[i].standby = w.road[i].group && n % 2;
	}
	memset(&s, 0, sizeof(s));
	s.steps = 5 + (int)draw(26);
	w.aptpl = s.flags = chance(300) ? FLAG_APTPL : 0;
	s.wrong = chance(500) ? 150 : 20;
	s.host = chance(600) ? 300 : 0;
	s.same_key = chance(100) ? 500 : 0;
}

/* Each command has to be right by itself: prhelper never looks. */
static void
begin_old(void)
{
	uint32_t n;

	begin_unit(draw(100));
	n = draw(100);
	if (n >= 35) {
		s.down = chance(800) ? 300 : 0;
		s.up = 300;
	}
	if (n >= 60 && n < 70) {
		w.rate[F_SLOW] = 100;
		w.rate[F_RESET] = w.rate[F_ATTENTION] = 30;
	} else if (n >= 70) {
		faults();
	}
}

/* What happens during a command, too: seldom, or nothing would come of it. */
static void
bad_moments(void)
{
	static const enum fault beside[] = { F_DOWN, F_UP, F_HOST, F_DAEMON,
		F_TABLE, F_POWER };
	size_t i;

	for (i = 0; i < LEN(beside); i++)
		if (chance(250))
			w.rate[beside[i]] = 2 + (int)draw(15);
	w.rate[F_SUSPENDED] = chance(200) ? 200 : 0;
}

/*
 * It looks. In some schedules commands never fail, so that the windows of
 * what it does can be seen; in some the hosts are quiet.
 */
static void
begin_new(void)
{
	int i;

	begin_unit(draw(100));
	w.looks = 1;
	w.look_at = 0;
	s.down = chance(900) ? 250 : 0;
	s.up = 350;
	s.daemon = chance(500) ? 100 : 0;
	s.table = chance(300) ? 100 : 0;
	s.power = chance(200) ? 30 : 0;
	s.rest = chance(500) ? 100 : 0;
	w.rate[F_WRITES] = chance(500) ? 300 : 0;
	for (i = 1; s.table && i < w.paths; i++)
		w.road[i].unlisted = (uint8_t)chance(200);
	if (chance(500)) {
		s.restart = chance(500) ? 50 : 0;
		w.rate[F_KILL] = chance(700) ? 1 + (int)draw(15) : 0;
		w.forgetful = chance(100);
	}
	if (chance(600))
		bad_moments();
	if (chance(450)) {
		faults();
		w.rate[F_SHORT] = chance(200) ? 20 : 0;
		w.rate[F_ATTENTIONS] = chance(200) ? 20 : 0;
	}
	w.faultless = 1;
	for (i = 0; i <= F_SUSPENDED; i++)
		w.faultless &= w.rate[i] == 0 || i == F_UP || i == F_HOST;
}

/*
 * A path is replaced while no helper runs, which is stopped between commands;
 * the target often has no room for one more registration. No command is
 * executed late: then the key of a path is not what tells most.
 */
static void
begin_rare(void)
{
	s.replaced = 300;
	s.restart = 100;
	w.rate[F_KILL] = w.rate[F_LATE] = 0;
	w.rate[F_SILENT] = w.rate[F_HELD] = 0;
	w.rate[F_REFUSED] = 400;
	w.rate[F_HOST] = 40;
	w.faultless = 0;
}

/* What was decided since chance_seed() or chance_list(). */
static void
play(void)
{
	static uint8_t data[DATA_MAX];
	struct request rq = { .dev = MAP_DEV, .data = data };
	struct reply rp;
	size_t i, n;
	int step;

	memset(data, 0, sizeof(data));
	history_reset();
	if (decide(seed % OLD_SHARE != 0, 2))
		begin_new();
	else
		begin_old();
	if (w.looks && decide(seed % RARE_SHARE == RARE_SHARE - 1, 2))
		begin_rare();
	n = w.looks ? LEN(events) : OLD_EVENTS;
	note("%s, %d paths, %d other nexuses", kind_names[w.lun.kind], w.paths,
	    w.lun.n - w.paths);
	for (step = 0; step < s.steps; step++) {
		chance_step();
		if (!decide(1, 2))
			break;
		for (i = 0; i < n; i++)
			events[i]();
		draw_guest(&rq);
		run_guest(&rq, &rp);
	}
	rest();
}

/* 1 and the sentence that was broken, or 0. */
static int
is_wrong(void)
{
	wrong = NULL;
	if (!setjmp(give_up))
		play();
	return wrong != NULL;
}

/* Is it the same that is wrong if this is decided? */
static int
still_wrong(const uint32_t *p, size_t n)
{
	const char *was = first_wrong;

	chance_list(p, n);
	return is_wrong() && wrong == was;
}

/* A schedule that shows the same, but shorter, is kept. */
static void
shorten(void)
{
	const char *dir = getenv("TMPDIR");
	char name[256];
	size_t n, was;

	chance_decided(&was);
	first_wrong = wrong;
	shrinking = 1;
	noting = 0;
	memset(tracing, 0, sizeof(tracing));
	n = chance_shrink(still_wrong);
	snprintf(name, sizeof(name), "%s/sim-%llu", dir ? dir : "/tmp",
	    (unsigned long long)seed);
	if (chance_write(name) == 0)
		fprintf(err, "of %zu decisions %zu are enough: "
			     "sim -v -r %s\n", was, n, name);
}

/* The old kind has the numbers it always had, times OLD_SHARE. */
static void
run_seed(void)
{
	snprintf(schedule, sizeof(schedule), "sim -v -s %llu",
	    (unsigned long long)seed);
	chance_seed(seed % OLD_SHARE ? seed : seed / OLD_SHARE);
	if (is_wrong() && !keep) {
		shorten();
		exit(1);
	}
}

/* The comparison */

static void
print_hex(const uint8_t *p, uint32_t len)
{
	while (len-- > 0)
		printf("%02x", *p++);
}

static void
print_step(const char *who, int number, const struct request *rq)
{
	printf(number ? "%s%d " : "%s ", who, number);
	print_hex(rq->cdb, rq->cdb[0] == PR_CLEANUP ? 1 : PR_CDB_LEN);
	if (rq->cdb[0] == PR_OUT && rq->len) {
		putchar(':');
		print_hex(rq->data, rq->len);
	}
	printf(" => ");
}

/* PRGENERATION is the head of what these return. */
static int
counted(const struct request *rq)
{
	int action = rq->cdb[1] & ACTION_MASK;

	return rq->cdb[0] == PR_IN &&
	    (action == READ_KEYS || action == READ_RESERVATION ||
		action == READ_FULL_STATUS);
}

static void
print_answer(const struct request *rq, const struct reply *rp)
{
	uint32_t sense = proto_sense_of(rp->sense);
	uint32_t known = rp->len < 4 ? rp->len : 4;

	printf("%02x ", rp->status);
	if (rp->sense[0])
		printf("%x/%02x/%02x ", sense >> 16, sense >> 8 & 0xff,
		    sense & 0xff);
	else
		printf("- ");
	if (!settled || !counted(rq))
		known = 0;
	printf("%.*s", (int)(2 * known), "xxxxxxxx");
	print_hex(rq->data + known, rp->len - known);
	printf(rp->len ? "\n" : "-\n");
}

/* But for PRGENERATION. */
static int
same_unit(const struct target *t)
{
	int i;

	for (i = 0; i < t->n; i++)
		if (t->nexus[i].key != w.lun.nexus[i].key ||
		    t->nexus[i].nua != w.lun.nexus[i].nua)
			return 0;
	return t->holder == w.lun.holder && t->type == w.lun.type;
}

/* prhelper has time to look until there is nothing left for it to do. */
static void
print_settle(struct request *rq)
{
	static struct target was;
	struct reply rp;
	int acted = 0;

	do {
		was = w.lun;
		look();
		settled |= w.sent != 0;
		acted |= !same_unit(&was);
	} while (!same_unit(&was));
	if (!acted)
		return;
	make_in(rq, READ_KEYS, DATA_MAX);
	print_step("settle o", 1, rq);
	w.lun.nexus[FAITHFUL_PATHS].nua = 0;
	memset(rq->data, 0, rq->len);
	target_run(&w.lun, FAITHFUL_PATHS, rq, &rp);
	print_answer(rq, &rp);
}

/* A path goes or returns; at least one stays. */
static void
print_turn(void)
{
	int i, n = 0, path = (int)draw(FAITHFUL_PATHS);
	struct road *r = &w.road[path];

	for (i = 0; i < FAITHFUL_PATHS; i++)
		n += w.road[i].state == RUNNING;
	if (r->state == RUNNING && n == 1)
		return;
	printf("%s p%d\n", r->state == RUNNING ? "down" : "up", path + 1);
	r->state = r->state == RUNNING ? OFFLINE : RUNNING;
	if (r->state == RUNNING)
		w.lun.nexus[path].nua = 0;
}

/* To one nexus, not through the map. */
static void
print_raw(struct request *rq)
{
	struct reply rp;
	int nexus = (int)draw((uint32_t)w.lun.n);
	int other = nexus - FAITHFUL_PATHS;

	/* The node of a disk that is offline cannot be opened. */
	if (other < 0 && w.road[nexus].state == OFFLINE)
		return;
	if (other < 0 || chance(300))
		draw_in(rq);
	else
		draw_out(rq, w.lun.nexus[nexus].key,
		    (uint64_t)(OTHER_KEY + other));
	if (rq->cdb[0] == PR_OUT && rq->cdb[1] == PREEMPT_AND_ABORT)
		rq->cdb[1] = PREEMPT;
	print_step(other < 0 ? "p" : "o", other < 0 ? nexus + 1 : other + 1,
	    rq);
	memset(rq->data, 0, rq->cdb[0] == PR_IN ? rq->len : 0);
	before();
	target_run(&w.lun, nexus, rq, &rp);
	after_other();
	print_answer(rq, &rp);
}

static void
faithful(void)
{
	static uint8_t data[DATA_MAX];
	struct request rq = { .dev = MAP_DEV, .data = data };
	struct reply rp;
	int i, n;

	snprintf(schedule, sizeof(schedule), "sim -f %llu",
	    (unsigned long long)seed);
	if (setjmp(give_up))
		return;
	chance_seed(seed);
	history_reset();
	fabric_reset(LIO, FAITHFUL_PATHS, FAITHFUL_OTHERS);
	w.looks = 1;
	for (i = 0; i < w.lun.n; i++)
		w.lun.nexus[i].initiator = (uint8_t)(i + 1);
	s.wrong = 100;
	w.aptpl = s.flags = chance(300) ? FLAG_APTPL : 0;
	for (i = 40 + (int)draw(41); i > 0; i--) {
		n = (int)draw(100);
		if (n < 10) {
			print_turn();
		} else if (n < 40) {
			print_raw(&rq);
		} else {
			draw_guest(&rq);
			if (rq.cdb[0] == PR_OUT &&
			    rq.cdb[1] == PREEMPT_AND_ABORT)
				rq.cdb[1] = PREEMPT;
			print_step("mp", 0, &rq);
			run_guest(&rq, &rp);
			print_answer(&rq, &rp);
		}
		print_settle(&rq);
	}
}

/* Many schedules, by several processes */

/* What one has found out; in memory that all share. */
static struct result {
	unsigned long counts[ROWS][COLS], faults[FAULTS];
	unsigned long windows, revivals, done;
	int64_t window, calm, faultless, settle;
} *results;

static int64_t
greater(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static void
save_result(struct result *r)
{
	memcpy(r->counts, counts, sizeof(counts));
	memcpy(r->faults, fault_counts, sizeof(fault_counts));
	r->windows = windows;
	r->revivals = revivals;
	r->window = longest_window;
	r->calm = longest_calm[0];
	r->faultless = longest_calm[1];
	r->settle = longest_settle;
}

static void
add_result(struct result *sum, const struct result *r)
{
	int i, j;

	for (i = 0; i < ROWS; i++)
		for (j = 0; j < COLS; j++)
			sum->counts[i][j] += r->counts[i][j];
	for (i = 0; i < FAULTS; i++)
		sum->faults[i] += r->faults[i];
	sum->windows += r->windows;
	sum->revivals += r->revivals;
	sum->done += r->done;
	sum->window = greater(sum->window, r->window);
	sum->calm = greater(sum->calm, r->calm);
	sum->faultless = greater(sum->faultless, r->faultless);
	sum->settle = greater(sum->settle, r->settle);
}

static void
coverage(const struct result *r)
{
	static const char *const others[] = { "REPLACE LOST, unknown", "any IN",
		"CLEANUP" };
	uint8_t cdb[CDB_LEN] = { PR_OUT };
	int i;

	fprintf(err, "%-32s %9s %9s %9s %9s\n", "guest", "GOOD", "CONFLICT",
	    "CHECK", "BUSY");
	for (i = 0; i < ROWS; i++) {
		cdb[1] = (uint8_t)i;
		fprintf(err, "%-32s %9lu %9lu %9lu %9lu\n",
		    i < REPLACE_LOST ? proto_name(cdb) :
				       others[i - REPLACE_LOST],
		    r->counts[i][COL_GOOD], r->counts[i][COL_CONFLICT],
		    r->counts[i][COL_CHECK], r->counts[i][COL_BUSY]);
	}
	for (i = 0; i < FAULTS; i++)
		fprintf(err, "%-32s %9lu\n", fault_names[i], r->faults[i]);
	fprintf(err, "%-32s %9lu\n", "removed keys back for a moment",
	    r->revivals);
	fprintf(err, "%-32s %9lu\n", "times a write would be refused",
	    r->windows);
	fprintf(err, "%-32s %9lld\n", "longest, ms", (long long)r->window);
	fprintf(err, "%-32s %9lld\n", "... after the last fault, ms",
	    (long long)r->calm);
	fprintf(err, "%-32s %9lld\n", "... where no command fails, ms",
	    (long long)r->faultless);
	fprintf(err, "%-32s %9lld\n", "longest until all is settled, ms",
	    (long long)r->settle);
}

/* Every stepth of the n seeds from the first one on, until it is late. */
static void
run_seeds(uint64_t first, unsigned long n, unsigned long job,
    unsigned long step)
{
	static unsigned long i; /* outlives longjmp() */

	for (i = job; i < n && (!late || time(NULL) < late); i += step) {
		seed = first + i;
		run_seed();
		results[job].done++;
	}
	save_result(&results[job]);
}

/* When one has found something, the others need not go on. */
static void
run_jobs(unsigned long n, int jobs)
{
	pid_t pids[JOBS_MAX];
	int i, status;

	for (i = 0; i < jobs; i++) {
		if ((pids[i] = fork()) < 0)
			exit(2);
		if (pids[i] == 0) {
			run_seeds(seed, n, (unsigned long)i,
			    (unsigned long)jobs);
			exit(fflush(stdout) || failed);
		}
	}
	while (wait(&status) > 0) {
		if (status && !keep)
			for (i = 0; i < jobs; i++)
				kill(pids[i], SIGTERM);
		failed |= status != 0;
	}
}

static void
run_file(const char *name)
{
	if (chance_read(name) < 0)
		exit(2);
	snprintf(schedule, sizeof(schedule), "sim -v -r %s", name);
	is_wrong();
}

static void
usage(void)
{
	fprintf(stderr, "usage: sim [-ckvw] [-j JOBS] [-n N] [-s SEED] "
			"[-t SECONDS]\n"
			"       sim [-vw] -r FILE\n"
			"       sim -f SEED\n");
	exit(2);
}

/* Messages of prhelper are for the trace. */
static void
set_up(int jobs)
{
	if (!(err = fdopen(dup(2), "w")))
		exit(2);
	setvbuf(stdout, NULL, noting ? _IOLBF : _IOFBF, BUFSIZ);
	if (noting)
		dup2(1, 2);
	else if (!warnings && !freopen("/dev/null", "w", stderr))
		exit(2);
	memset(tracing, noting, sizeof(tracing));
	results = mmap(NULL, (size_t)jobs * sizeof(*results),
	    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		exit(2);
}

int
main(int argc, char *argv[])
{
	const char *file = NULL;
	unsigned long n = 1;
	int opt, i, jobs = 1, counted_too = 0, many = 0;

	seed = 1;
	while ((opt = getopt(argc, argv, "cf:j:kn:r:s:t:vw")) != -1) {
		switch (opt) {
		case 'c': counted_too = 1; break;
		case 'k': keep = 1; break;
		case 'f': compare = 1; /* fall through */
		case 's': seed = strtoull(optarg, NULL, 10); break;
		case 'j': jobs = atoi(optarg); break;
		case 'n':
			n = strtoul(optarg, NULL, 10);
			many = 1;
			break;
		case 'r': file = optarg; break;
		case 't':
			late = time(NULL) + atoi(optarg);
			n = (unsigned long)-1;
			many = 1;
			break;
		case 'v': noting = 1; break;
		case 'w': warnings = 1; break;
		default: usage();
		}
	}
	if (optind < argc || jobs < 1 || jobs > JOBS_MAX)
		usage();
	set_up(jobs);
	if (compare)
		faithful();
	else if (file)
		run_file(file);
	else if (jobs > 1)
		run_jobs(n, jobs);
	else
		run_seeds(seed, n, 0, 1);
	for (i = 1; i < jobs; i++)
		add_result(&results[0], &results[i]);
	if (counted_too)
		coverage(&results[0]);
	if (many)
		printf("%lu schedules\n", results[0].done);
	return fflush(stdout) || failed;
}
