/* See LICENSE file for copyright and license details. */
/*
 * The simulator: one logical unit (target.c), the paths to it and what goes
 * wrong on them (fabric.c), what others do (event.c), what must be true after
 * each command (invariant.c) and in the long run (history.c), chance and how
 * to have less of it (chance.c), schedules (sim.c). It includes nothing, like
 * prhelper.h, which comes first.
 */

/* Bits of byte 20 of a parameter list. */
#define MAP_DEV makedev(253, 0) /* the map that the guest has */

enum { FLAG_APTPL = 1, FLAG_ALL_TG_PT = 4, FLAG_SPEC_I_PT = 8 };

/* What targets answer, as sense key, ASC and ASCQ. */
enum {
	TARGET_FULL = 0x055504, /* insufficient registration resources */
	UA_PREEMPTED = 0x2a03,   /* reservations preempted */
	UA_RELEASED = 0x2a04,    /* reservations released */
	UA_REMOVED = 0x2a05, /* registrations preempted */
};

enum {
	FOREIGN_MAX = 8, /* nexuses of other hosts */
	GHOSTS_MAX = 16, /* nexuses that paths of ours had once */
	NEXUS_MAX = PATHS_MAX + FOREIGN_MAX + GHOSTS_MAX,
	GUEST_KEY = 0xa1, /* and the next ones */
	KEYS = 3,
	UA_MAX = 6,
	NOBODY = -1,
};

/* target.c: one logical unit, and how real ones differ from SPC-4 */

enum kind { LIO, SPDK, STRICT, KINDS };
extern const char *const kind_names[KINDS];

struct nexus {
	uint64_t key;      /* 0: not registered */
	uint8_t initiator; /* port; the target port is the nexus' number */
	uint8_t all_tg_pt;
	uint8_t nua;
	uint16_t ua[UA_MAX]; /* unit attentions that wait, ASC and ASCQ */
	uint8_t own[UA_MAX]; /* ... which command of the guest made it */
};

struct target {
	enum kind kind;
	uint8_t full_status; /* READ FULL STATUS is there */
	uint8_t aptpl;
	uint8_t type;     /* of the reservation */
	uint8_t own;      /* the guest's command now; 0: another's */
	int holder;       /* nexus, or NOBODY; all registrants: a nominal one */
	uint64_t crkey;   /* SPDK: the holder's key, as it remembers it */
	uint32_t generation;
	unsigned long changes;
	int nreg;
	uint8_t order[NEXUS_MAX]; /* nexuses in the order they registered */
	int n;
	struct nexus nexus[NEXUS_MAX]; /* our paths, the other hosts', ghosts */
};

/* Execute a command from a nexus; an IN puts its payload into rq->data. */
void target_run(
    struct target *, int nexus, const struct request *, struct reply *);
/* A unit attention for a nexus. */
void target_attention(struct target *, int nexus, uint16_t code);
/*
 * A nexus goes on as one that is new, and what it had stays with a ghost: an
 * initiator port or a target port is another one.
 */
void target_replace(struct target *, int nexus);
/* Power loss: what is left is what was to be kept. */
void target_power_loss(struct target *);
/* Is the reservation of an all registrants type? */
int target_all(const struct target *);
/* May a nexus write, or read, as the reservation is? SPC-4 table 67. */
int target_may(const struct target *, int nexus, int writing);

/* fabric.c: our paths, virtual time, and the seam under mpath.c */

/* What can happen to a command, each so often in 1,000; names in fabric.c. */
enum fault {
	F_SLOW,      /* 10 to 400 ms */
	F_LATE,      /* 600 to 3,000 ms */
	F_NOT_SENT,  /* lost before it was executed */
	F_NO_ANSWER, /* executed, the answer lost */
	F_SILENT,    /* neither executed nor answered for long */
	F_HELD,      /* silent, and executed seconds later */
	F_BUSY,      /* for a while */
	F_FULL,      /* TASK SET FULL, for a while */
	F_ALUA,      /* in transition, for a while */
	F_RESET,     /* a unit attention: 29h */
	F_ATTENTION, /* another one */
	F_ABORTED,
	F_MEDIUM,
	F_HARDWARE,
	F_REFUSED, /* REGISTER: insufficient registration resources */
	F_SHORT,   /* of an IN's payload the end is missing */
	F_ATTENTIONS, /* a unit attention after the other, for a while */
	F_COMMAND, /* those before happen to a command, these beside it: */
	F_DOWN = F_COMMAND, /* the path goes while a command is on it */
	F_UP,      /* ... another one returns */
	F_HOST,    /* ... another host does something */
	F_MAP,     /* device-mapper has no time */
	F_STATE,   /* there is no room to remember the logical unit */
	F_SUSPENDED, /* the map takes no message */
	F_WRITES,  /* of the guest are still under way on a failed path */
	F_DAEMON,  /* multipathd fails or reinstates a path */
	F_TABLE,   /* ... or loads another table */
	F_POWER,   /* the target loses power, or resets the unit */
	F_KILL,    /* prhelper is killed */
	FAULTS,
};
extern const char *const fault_names[FAULTS];
extern unsigned long fault_counts[FAULTS];

enum path_state { RUNNING, OFFLINE, BLOCKED };
/* Something went wrong on a path; it was only busy, or in transition. */
enum { TOUCHED = 1, HELD_UP = 2 };

#define NEVER INT64_MAX
enum { QUEUE_MAX = 4 };

/* A command that was sent and has not come back. */
struct flight {
	uint8_t executed;
	uint8_t orphan;  /* who sent it was killed */
	uint8_t how;
	uint32_t most;   /* of the payload; 0: all */
	uint8_t busy;    /* status instead of the target's answer */
	uint32_t sense;  /* ... and sense data */
	int64_t sent_at;
	int64_t run_at;  /* it is executed then, or NEVER */
	int64_t end_at;
	struct job *job; /* NULL: abandoned */
	int action;      /* of the guest's command that it was sent for */
	uint64_t victim; /* the key that the guest preempts with that */
	uint64_t key;    /* ... or registers */
	unsigned long serial; /* ... and its number */
	struct request rq;
	struct reply rp;
	uint8_t data[DATA_MAX];
};

/* A path of ours. Its nexus has the same number. */
struct road {
	enum path_state state;
	uint8_t unlisted;  /* not in the table of the map */
	uint8_t failed;    /* shown as F */
	uint8_t gated;     /* ... because prhelper said so */
	uint8_t seen_away; /* prhelper has seen that it was not listed */
	uint8_t noted;     /* prhelper has written down that it did */
	uint8_t group;     /* 0 is the current one */
	uint8_t standby;
	uint8_t seen; /* as active, when the map was read */
	uint8_t mute; /* in this command it did not answer */
	uint8_t touched;   /* in this command: TOUCHED, HELD_UP */
	uint8_t disturbed; /* its key was changed by somebody else */
	int64_t busy_until, full_until, alua_until, attention_until;
	unsigned long joined; /* the table, in this command of the guest */
	unsigned long joined_at; /* ... by then so many were sent */
	int64_t writes_until; /* of the guest, from before it was failed */
	int64_t refused_since; /* the guest's writes, though it may; or NEVER */
	/* Commands under way: the first is at the device, the rest behind. */
	int first, queued;
	struct flight flight[QUEUE_MAX];
};

struct world {
	int64_t clock;
	struct target lun;
	int paths;  /* our nexuses are 0 to paths - 1 */
	int others; /* then these, of other hosts, then ghosts of ours */
	int rate[FAULTS];
	int queues;           /* queue_if_no_path */
	uint8_t aptpl;        /* what all who register say of that */
	struct lun state;     /* what prhelper remembers */
	struct lun saved;     /* ... what its successor would */
	int moved;            /* by others, or late: the reservation */
	int lent;             /* it has it now */
	int rested;           /* it has, since it sent something */
	int forgetful;        /* there is no state directory */
	int looks;            /* it looks by itself */
	int faultless;        /* commands never fail */
	int saw_map;          /* it has, and there was one */
	int mortal;           /* it may be killed now */
	int reborn;           /* it was, and the next one has not looked yet */
	int64_t look_at;      /* it looks again, or NEVER */
	int64_t calm_at;      /* what went wrong is over by then */
	unsigned long serial; /* of the guest's command, or the look */
	unsigned long calls;  /* of the seam during that */
	unsigned long sent;   /* commands that reached the target, by it */
	struct road road[PATHS_MAX];
};
extern struct world w;

/* A fresh world: everything works, nothing is registered. */
void fabric_reset(enum kind, int paths, int foreign);
/* Let time pass, and with it what is under way, and what prhelper does. */
void fabric_pass(int64_t until);
/* What goes wrong has an effect until then. */
void fabric_trouble(int64_t until);
/* Can a command reach the target through this path? */
int fabric_usable(int path);
/* Device-mapper tells of a change: prhelper looks as soon as it can. */
void fabric_map_event(void);
/* prhelper is no more: nobody waits for what it sent. */
void fabric_abandon(void);
/* Nothing more goes wrong; what is under way comes back soon. */
void fabric_heal(void);

/* event.c: what others do, each at any moment */

void path_down(int n);
void path_up(int n);
void path_replaced(void);
void multipathd_acts(void);
void table_changes(void);
void target_fails(void);

/* chance.c: what is decided, by a seed or by a list of decisions */

/* Begin: from a seed; or from a list, after whose end it is always 0. */
void chance_seed(uint64_t);
void chance_list(const uint32_t *, size_t);
/* v, which is less than n, unless the list says something else. */
uint32_t decide(uint32_t v, uint32_t n);
/*
 * 0 to n - 1; the same, of which the greatest is the simplest; and yes in n of
 * 1,000 cases.
 */
uint32_t draw(uint32_t n);
uint32_t draw_down(uint32_t n);
int chance(int n);
/* A step of the schedule begins, which can be left out as a whole. */
void chance_step(void);
/* What was decided since the begin. */
const uint32_t *chance_decided(size_t *n);
/*
 * Shorten the list that was decided as long as run() finds the same wrong
 * with it, but not for ever. The length that is left; it is what was decided.
 */
size_t chance_shrink(int (*run)(const uint32_t *, size_t));
/* A list in a file: 0, or -1. */
int chance_write(const char *name);
int chance_read(const char *name);

/* sim.c: schedules, the guest, the trace */

/* Something is wrong: say so, and how to see it again. */
_Noreturn void violated(const char *, ...)
    __attribute__((format(printf, 1, 2)));
/* With -v: a line of the trace. */
extern int noting;
void note(const char *, ...) __attribute__((format(printf, 1, 2)));
/* A command, an answer in words; each has one buffer. */
const char *words(const struct request *);
const char *answer(const struct reply *);

/* prhelper looks after its units; it may be killed meanwhile. */
void look(void);
/* prhelper is killed here and now. */
_Noreturn void kill_helper(void);
/* Another host does something. */
void other_host(void);

/* invariant.c: what must always be true, and what it is told */

/* Is it a nexus of our own, or one that was? */
int ours(int nexus);
/* Does one of our paths have this key? */
int ours_have(const struct target *, uint64_t key);

/* The guest's command begins: what it is. */
void guest_begins(const struct request *);
/* What it is now: an action or NOBODY, and the key that it preempts. */
int guest_action(void);
uint64_t guest_victim(void);
/* The target executes a command: of ours on a path, or another host's. */
void before(void);
void after(int path, const struct flight *);
void after_other(void);
/* A command of ours is sent; has come back with an answer; is given up. */
void guest_sends(int path, const struct flight *);
void guest_answered(const struct flight *);
void guest_gives_up(const struct flight *);
/* A command of ours was lost, or the system has no means for it. */
void guest_hindered(void);
void guest_cut(void);
/* It has its answer; everything is checked. */
void guest_ends(const struct request *, const struct reply *);
/* Does prhelper know of each nexus that has the guest's key? */
int record_whole(void);
/* prhelper was killed, or begins to look, or has looked. */
void guest_is_left(void);
void look_begins(void);
void look_ends(void);

/* history.c: what must be true in the long run */

extern unsigned long windows, revivals;
/*
 * Windows in which a write is refused: all of it; only what was after the
 * last fault, also where commands never fail. Until all is settled.
 */
extern int64_t longest_window, longest_calm[2], longest_settle;

void history_reset(void);
void history_begins(const struct request *);
/* The key that the guest's command registers, or 0. */
uint64_t history_key(void);
void history_ends(const struct request *, const struct reply *);
/* It was killed during the guest's command, or at any other time. */
void history_killed(void);
/* Somebody else's command, or power loss, took these keys from our paths. */
void history_removed(uint64_t key, int by_others);
void history_other(void);
int history_lost(void);
int history_twin(uint64_t key);
void history_late(void);
/* A command of ours gave a key to a path. */
void history_registered(
    int path, uint64_t key, const struct flight *, int late);
/* A path told us that it has not this key, which is nobody's any more. */
void history_told(uint64_t key);
/* prhelper begins to look. */
void history_looks(void);
/* Something may have changed for the guest's writes. */
void history_watch(void);
/* A command of the guest or a look is over. */
void history_rest(void);
/* Has somebody removed this key? */
int history_was_removed(uint64_t key);
/* What the guest may have, in words. */
const char *history_keys(void);
/* Is each usable path as it should be? */
int history_settled(void);
