/* See LICENSE file for copyright and license details. */
/*
 * The simulator: one logical unit (target.c), the paths to it and what goes
 * wrong on them (fabric.c), the guest, the other hosts and what must always
 * be true (sim.c). It includes nothing, like prhelper.h, which comes first.
 */

/* Bits of byte 20 of a parameter list. */
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
	NEXUS_MAX = PATHS_MAX + FOREIGN_MAX,
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
	struct nexus nexus[NEXUS_MAX]; /* our paths, then the other hosts' */
};

/* Execute a command from a nexus; an IN puts its payload into rq->data. */
void target_run(
    struct target *, int nexus, const struct request *, struct reply *);
/* A unit attention for a nexus. */
void target_attention(struct target *, int nexus, uint16_t code);
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
	F_COMMAND, /* those before happen to a command, these beside it: */
	F_DOWN = F_COMMAND, /* the path goes while a command is on it */
	F_UP,      /* ... another one returns */
	F_HOST,    /* ... another host does something */
	F_MAP,     /* device-mapper has no time */
	F_STATE,   /* there is no room to remember the logical unit */
	FAULTS,
};
extern const char *const fault_names[FAULTS];
extern unsigned long fault_counts[FAULTS];

enum path_state { RUNNING, OFFLINE, BLOCKED };

#define NEVER INT64_MAX

/* A command that was sent and has not come back. */
struct flight {
	uint8_t there;
	uint8_t executed;
	uint8_t how;
	uint8_t busy;    /* status instead of the target's answer */
	uint32_t sense;  /* ... and sense data */
	int64_t run_at;  /* it is executed then, or NEVER */
	int64_t end_at;
	struct job *job; /* NULL: abandoned */
	int action;      /* of the guest's command that it was sent for */
	uint64_t victim; /* the key that the guest preempts with that */
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
	uint8_t group;     /* 0 is the current one */
	uint8_t standby;
	uint8_t touched;   /* something went wrong during this command */
	uint8_t disturbed; /* its key was changed by somebody else */
	int64_t busy_until, full_until, alua_until;
	struct flight flight;
};

struct world {
	int64_t clock;
	struct target lun;
	int paths; /* our nexuses are 0 to paths - 1, then the others' */
	int rate[FAULTS];
	int queues;           /* queue_if_no_path */
	struct lun state;     /* what prhelper remembers */
	int lent;             /* it has it now */
	unsigned long serial; /* of the guest's command */
	unsigned long calls;  /* of the seam during that */
	struct road road[PATHS_MAX];
};
extern struct world w;

/* A fresh world: everything works, nothing is registered. */
void fabric_reset(enum kind, int paths, int foreign);
/* Let time pass, and with it what is under way. */
void fabric_pass(int64_t until);
/* Can a command reach the target through this path? */
int fabric_usable(int path);

/* sim.c: chance, the trace, and those who look on */

/* The seed decides: 0 to n - 1; and yes in n of 1,000 cases. */
uint32_t draw(uint32_t n);
int chance(int n);
/* Something is wrong: say so, and how to see it again. */
_Noreturn void violated(const char *, ...)
    __attribute__((format(printf, 1, 2)));
/* With -v: a line of the trace. */
extern int noting;
void note(const char *, ...) __attribute__((format(printf, 1, 2)));
/* A command, an answer in words; each has one buffer. */
const char *words(const struct request *);
const char *answer(const struct reply *);

/* invariant.c: what must always be true, and what it is told */

/* The guest's command begins: what it is. */
void guest_begins(const struct request *);
/* What it is now: an action or NOBODY, and the key that it preempts. */
int guest_action(void);
uint64_t guest_victim(void);
/* The target executes a command: of ours on a path, or another host's. */
void before(void);
void after(int path, const struct flight *);
void after_other(void);
/* A command of ours was lost, or the system has no means for it. */
void guest_hindered(void);
/* It has its answer; everything is checked. */
void guest_ends(const struct request *, const struct reply *);
/* Another host does something. */
void other_host(void);
