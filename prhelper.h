/* See LICENSE file for copyright and license details. */
/*
 * The one header: limits, a request, its reply, and what each file offers.
 * It includes nothing; every file includes what it uses before it.
 */

#define DEFAULT_SOCKET "/var/run/qemu-pr-helper.sock"
#define STATE_SUFFIX ".state" /* to the socket: the state directory */

/* What the wire says: QEMU's docs/interop/pr-helper.rst. */
enum {
	FEATURES_LEN = 4,          /* feature bits, each way, on connect */
	CDB_LEN = 16,              /* a CDB as it comes, padded with zeros */
	PR_CDB_LEN = 10,           /* what of it a PERSISTENT RESERVE has */
	SENSE_LEN = 96,            /* SCSI_SENSE_BUFFERSIZE of the kernel */
	REPLY_LEN = 8 + SENSE_LEN, /* status, payload size, sense */
	DATA_MAX = 8192,           /* longest parameter list or payload */
	PARAMS_LEN = 24,           /* of an OUT without TransportIDs */
};

/* How many and how long; milliseconds where not said otherwise. */
enum {
	CLIENTS_MAX = 1280,       /* 1,024 idle guests and room to spare */
	OTHERS_SHARE = 8,         /* one uid leaves 1/8 of it to others */
	FD_RESERVE = 16,          /* descriptors that are not for clients */
	WORKER_STACK = 64 * 1024, /* bytes; DATA_MAX and a line, twice */
	PARK_TIME = 10000,        /* an idle worker leaves after this */
	QUIET_TIME = 1000,        /* a busy connection is quiet after this;
				   also SO_RCVTIMEO and SO_SNDTIMEO */
	IO_TIME = 5000,           /* a whole handshake, request or reply;
				   below STOP_TIME so that none is cut off */
	ACCEPT_PAUSE = 1000,      /* after accept() ran out of something */
	STOP_TIME = 7000,         /* what hangs longer after SIGTERM is given
				   up: libvirt sends SIGKILL after 10 s */
	LOCK_TIME = 3000,         /* another's start-up, two probes and all */
	RETRY_TIME = 10,          /* between looks at what will pass */
	PROBE_TIME = 1000,        /* a living helper greets within this */
	SG_TIME = 10000,          /* one command; the kernel raises less than
				   7 s to 7 s (BLK_MIN_SG_TIMEOUT) */
	SG_ABORT_TIME = 60000,    /* PREEMPT AND ABORT waits for each task */
	PATHS_MAX = 64,           /* of a map */
	MARKS_MAX = 128,          /* of paths, those that left among them */
	LUNS_MAX = 1024,          /* that are remembered */
	WWID_LEN = 256,           /* with its end; the kernel's longest is
				   a SCSI name string */
	PATH_NAME = 129,          /* a device's; DM_NAME_LEN, and a newline */
	STATE_LEN = 32,           /* of a path: transport-offline */
	MPATH_TIME = 20000,       /* one command over all its paths */
	TURN_TIME = 10000,        /* for a turn at a logical unit */
	DM_TIME = 1000,           /* for a turn at libdevmapper */
	PATIENCE = 500,           /* a path may be silent so long before the
				   next one is tried, or it is given up */
	LOOK_TIME = 2000,         /* between looks at maps where the kernel
				   (before 4.14) does not tell of changes */
	WARN_TIME = 3600000,      /* between warnings of the same thing */
};

/* SCSI status codes, SAM-5 5.3.1. */
enum {
	GOOD = 0x00,
	CHECK_CONDITION = 0x02,
	BUSY = 0x08,
	RESERVATION_CONFLICT = 0x18,
	TASK_SET_FULL = 0x28,
	TASK_ABORTED = 0x40,
};

/* Additional sense: sense key, ASC and ASCQ in one number. */
enum {
	MEDIUM_ERROR = 0x031100,   /* unrecovered read error */
	TARGET_FAILURE = 0x044400, /* internal target failure */
	INVALID_OPCODE = 0x052000,
	PARAMS_LENGTH = 0x051a00,   /* parameter list length error */
	INVALID_FIELD = 0x052400,   /* in the CDB */
	INVALID_PARAM = 0x052600,   /* in the parameter list */
	INVALID_RELEASE = 0x052604, /* of a persistent reservation */
	DEVICE_RESET = 0x062900,    /* power on, reset, or bus reset */
	SPACE_FAILED = 0x072707,    /* space allocation failed */
	IO_TERMINATED = 0x0b0006,   /* I/O process terminated */
	LU_COMM_FAILURE = 0x0b0800, /* logical unit communication */
	COMMAND_TIMEOUT = 0x0b2e02, /* during processing */
	TRANSPORT_ERROR = 0x0b4700, /* parity error */
};

/* What a client asks for: the opcode, SPC-4 6.15 and 6.16. */
enum {
	TEST_UNIT_READY = 0x00,
	PR_IN = 0x5e,
	PR_OUT = 0x5f,
	PR_CLEANUP = 0xff,  /* QEMU's own: forget the registration */
	ACTION_MASK = 0x1f, /* the service action in byte 1 of the CDB */
	TYPE_MASK = 0x0f,   /* the type in byte 2 */
};

/* Service actions of both. */
enum { READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS };
enum {
	REGISTER,
	RESERVE,
	RELEASE,
	CLEAR,
	PREEMPT,
	PREEMPT_AND_ABORT,
	REGISTER_AND_IGNORE,
	REGISTER_AND_MOVE,
	REPLACE_LOST,
};

/* What an IN returns, and an OUT sends. */
enum {
	HEAD_LEN = 8, /* PRGENERATION, the length of what follows */
	KEY_LEN = 8,
	RESERVATION_LEN = 16,  /* what follows, if there is one */
	RESERVATION_TYPE = 21, /* its byte with scope and type */
	FLAGS = 20,            /* the byte of a parameter list with bits */
	APTPL = 0x01,
	ALL_TG_PT = 0x04,
	SPEC_I_PT = 0x08,
};

struct request {
	uint8_t cdb[CDB_LEN];
	int fd;        /* of the disk; -1: none */
	dev_t dev;     /* what it is, if that is a block device; sg_node() */
	uint32_t len;  /* allocation length or parameter list length */
	uint8_t *data; /* DATA_MAX bytes: parameter list, payload */
};

struct reply {
	uint8_t status; /* SCSI status */
	uint32_t len;   /* payload in the request's data; 0 unless IN */
	uint8_t sense[SENSE_LEN];
};

/* A path of a multipath map: an I_T nexus with its own registration. */
struct path {
	dev_t dev;      /* of the sd node */
	uint8_t active; /* device-mapper uses it: A, not F */
	uint8_t mute;   /* gave no answer since the map was read */
	int group;      /* its path group, from 1 */
};

struct map {
	dev_t dev;           /* of the dm node */
	char wwid[WWID_LEN]; /* of the logical unit; empty: unknown */
	int group;           /* the one that is in use; 0: there is none */
	int n;
	struct path paths[PATHS_MAX]; /* in the order of the status line */
};

/* How a command to a path ended. */
enum {
	SG_ANSWERED, /* the device's answer is in the reply */
	SG_DEAD,     /* no such path any more: not executed */
	SG_UNUSABLE, /* not sent: blocked, no permission, another LUN's, or a
			command that was abandoned has not come back yet */
	SG_LOST,     /* the answer was lost: may have been executed */
	SG_SILENT,   /* no answer yet: abandoned, may be executed even later */
};

/* One command to one path. */
struct job {
	dev_t dev;
	struct request rq; /* without a descriptor; data is the caller's and
			      not touched once the job is abandoned */
	struct reply rp;   /* what to tell the guest if it ends with this */
	uint8_t how;       /* SG_ of the above */
	uint8_t verdict;   /* this and the next are mpath.c's */
	uint8_t tries;
};

/* clock.c: the clock */

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t now(void);
/* Sleep until now() is at least that. */
void wait_until(int64_t);

/* confine.c: what a helper that serves may still do */

/*
 * Give up system calls, access to files, and core dumps, before the first
 * thread. Still needed are the state's directory, and those of a socket and a
 * pid file, to remove them; -1, NULL or "" if there is none. What the kernel
 * does not have is told at -v. When a call is refused this eventfd is written
 * to: somebody is to call confine_report(), as at the end.
 */
void confine(int eventfd, int state, const char *sock, const char *pidfile);
/* A line for each system call that was refused since the last time. */
void confine_report(void);

/* ctl.c: what the program does for an administrator */

/* Is this one of its words: status, in, out? */
int ctl_knows(const char *word);
/* Do it; argv[0] is the word. */
_Noreturn void ctl(int argc, char *argv[]);

/* dm.c: the only user of libdevmapper */

/*
 * Look for device-mapper, once, before privileges are dropped. Return 1 if
 * the kernel answered DM_VERSION, 0 if there is none. Its control node stays
 * open. Nothing is created in /dev.
 */
int dm_init(void);
/*
 * Read the multipath map that a block device is, or that a linear target over
 * the whole of it leads to. DM_OTHER: it is something else. DM_BUSY: the
 * library had no time, or no memory. DM_BROKEN: the kernel's answer is not
 * understood or, if the map is to be named, its paths lead to different
 * logical units; a log line says why.
 */
enum { DM_MAP, DM_OTHER, DM_BUSY, DM_BROKEN };
int dm_read(dev_t, struct map *, int named);
/*
 * Tell a map to use a path no more, or again: the messages fail_path and
 * reinstate_path of drivers/md/dm-mpath.c. 0, or -1: it is suspended, or gone.
 */
int dm_use_path(const struct map *, dev_t path, int use);
/* Tell a map to use this group first: the message switch_group. 0, or -1. */
int dm_use_group(const struct map *, int group);
/*
 * Wait until some map may have changed, at most ms milliseconds (-1: for
 * ever). Kernels without dm's event number: at most LOOK_TIME. One thread
 * only.
 */
void dm_wait(int ms);
/* The paths that a status line of a multipath target lists. 0, or -1. */
int dm_parse(const char *params, struct map *);
/*
 * Does the map queue I/O while there is no path (queue_if_no_path)? Yes if
 * the library has no time to say.
 */
int dm_queues(const struct map *);

/* mpath.c: a command of the guest over all paths of a multipath map */

/*
 * Run the request on the map that its descriptor is; what is no multipath
 * map is refused. May take MPATH_TIME, and longer for PREEMPT AND ABORT.
 */
void mpath_run(const struct request *, struct reply *);
/*
 * Look at each logical unit that is remembered: paths that returned or are
 * new get its key, or lose what they should not have. How long dm_wait() may
 * wait until the next look.
 */
int mpath_look(void);

/* path.c: the only file of the daemon that opens a device */

/*
 * Open the node of a path for SG_IO: read-only, which is enough with
 * CAP_SYS_RAWIO and makes no udev rule run. The descriptor, or -1 and *how:
 * SG_DEAD or SG_UNUSABLE. wwid is what the path must have, "": any. May block.
 */
int path_open(dev_t, const char *wwid, uint8_t *how);
/*
 * The kernel's name for the logical unit behind a path, made from VPD page
 * 83h: device/wwid in sysfs. 0, or -1 if there is none.
 */
int path_wwid(dev_t, char wwid[WWID_LEN]);
/*
 * The relative target port that a path leads to, by VPD page 83h in sysfs;
 * -1: unknown.
 */
int path_port(dev_t);
/* What people call a device: a map's name, or the kernel's. 0, or -1. */
int path_name(dev_t, char name[PATH_NAME]);
/* The state that the kernel has a path in, "gone" if none. 0, or -1. */
int path_state(dev_t, char state[STATE_LEN]);
/* How many commands the kernel has on their way through it: sysfs. */
int path_busy(dev_t);
/* The size of a block device in sectors of 512 bytes; 0: unknown. */
uint64_t path_size(dev_t);
/*
 * Let the kernel read the size again, and all that it knows of the device:
 * what it tried while the path was not registered was refused. Root only;
 * may block.
 */
void path_rescan(dev_t);

/* prhelper.c */

/*
 * Run a request whose descriptor and data are there, if who sent it may ask
 * for it; the reply says what came of it.
 */
void dispatch(struct request *, struct reply *);

/* priv.c: ids and capabilities; one straight path, run once */

struct ids {
	uid_t uid; /* -1: leave as it is */
	gid_t gid;
};

/*
 * Look up a user and a group, each a name, a number or NULL, in passwd(5)
 * and group(5). A user alone brings his own group. Dies if unknown.
 */
void priv_lookup(struct ids *, const char *user, const char *group);
/*
 * Take on the ids, empty the bounding set, set no_new_privs and keep
 * CAP_SYS_RAWIO; with dm also CAP_SYS_ADMIN, and CAP_DAC_READ_SEARCH if a
 * user was asked for. See capabilities(7). Dies if something is refused.
 */
void priv_drop(const struct ids *, int dm);

/* proto.c: bytes to request, reply to bytes */

/* How far reading or writing a message came. */
enum {
	IO_DONE,
	IO_QUIET,   /* not one byte came within QUIET_TIME */
	IO_GONE,    /* the peer closed, or the socket failed */
	IO_LATE,    /* begun, but not whole within IO_TIME */
	IO_BROKEN,  /* not what the protocol allows */
	IO_STARVED, /* no descriptor left to receive one with */
};

/* Text for one of the above. */
const char *proto_strerror(int io);
/* Send our feature bits to a client that was just accepted; never blocks. */
int proto_greet(int sock);
/* Read the client's feature bits; deadline as of now(). */
int proto_features(int sock, int64_t deadline);
/*
 * Read one request: the CDB with exactly one descriptor, then the parameter
 * list of an OUT. The descriptor is the caller's with IO_DONE, else closed.
 * With IO_STARVED the request was read but has no descriptor.
 */
int proto_read(int sock, struct request *);
/* May this client ask for it? 0, or -1 and the refusal. */
int proto_check(const struct request *, struct reply *);
/* Send a reply in one go; flags as in send(2). */
int proto_write(
    int sock, const struct request *, const struct reply *, int flags);
/* Fill in a reply without sense or payload. */
void proto_status(struct reply *, uint8_t status);
/* This descriptor is no good for it: 5h/20h/00h. Why is for the trace. */
void proto_refuse(const struct request *, struct reply *, const char *why);
/* CHECK CONDITION with fixed format sense data, SPC-4 4.5.3. */
void proto_sense(struct reply *, uint32_t sense);
/* The additional sense in fixed or descriptor format sense data. */
uint32_t proto_sense_of(const uint8_t *sense);
/* Name of the command in a CDB, for messages. */
const char *proto_name(const uint8_t *cdb);
/* With -v: one line for an OUT and what came of it. */
void proto_log(const struct request *, const struct reply *, pid_t, uid_t);

/* sg.c: the only ioctl(SG_IO) */

/*
 * Is the request's descriptor the node of a whole SCSI device, sd or sg? Sets
 * its number, 0 if it is no block device.
 */
int sg_node(struct request *);
/* Send the request to its disk, an sg_node(), and wait for the outcome. */
void sg_run(const struct request *, struct reply *);
/*
 * Send n commands to paths of the logical unit wwid, one after another; the
 * next one starts when the one before has an outcome or was silent for
 * PATIENCE. Returns when each has an outcome, or when none came for patience
 * milliseconds: the rest is abandoned then, and its paths get nothing new
 * until it comes back.
 */
void sg_batch(struct job *, int n, const char *wwid, int patience);

/* sock.c: the listening socket */

/* How many sockets a service manager passed as in sd_listen_fds(3): 0 or 1. */
int sock_activated(void);
/* Check the socket at SOCK_ACTIVATED_FD. Dies if it is no use to us. */
enum { SOCK_ACTIVATED_FD = 3 };
void sock_adopt(int fd);
/*
 * Listen on a path, which may be free or hold a stale socket; the new one
 * accepts before it can be seen. Returns its descriptor. Dies if the path
 * cannot be had, or if a living helper has it.
 */
int sock_listen(const char *path);

/* state.c: what is remembered of each logical unit, and whose turn it is */

/* What is known of the registration of a path. */
enum {
	MARK_NONE,    /* nothing: a path that is new */
	MARK_CLEAN,   /* holds the key, or none if there is none */
	MARK_SET,     /* missed a key: the key is to be registered */
	MARK_CLEAR,   /* missed an unregistration */
	MARK_GONE,    /* was clean when the map lost it */
	MARK_ROBBED,  /* had the key, and has it no more: what it may hold
			 now is not ours to remove */
	MARK_TAINTED, /* an answer was lost: it may hold anything */
};

struct mark {
	dev_t dev;
	uint8_t mark;
	uint8_t failed; /* we told device-mapper not to use it */
};

enum { APTPL_UNKNOWN, APTPL_OFF, APTPL_ON };

struct lun {
	char wwid[WWID_LEN];
	int busy;     /* it is somebody's turn */
	uint64_t key; /* that the guest wants registered; 0: none */
	uint64_t old; /* the one before, while it is being changed */
	uint8_t changing;
	uint8_t ghosts; /* have the key: paths that are another nexus now */
	dev_t map;      /* where its paths were last seen */
	uint8_t aptpl;  /* as the guest last said: APTPL_ of the above */
	dev_t holder;   /* the path that holds our reservation; 0: unknown */
	uint8_t warned; /* of a type that is no good for several paths */
	uint8_t loaded; /* as a predecessor knew it: to be verified */
	int n;
	struct mark marks[MARKS_MAX];
};

/*
 * What is remembered of a logical unit, for one command at a time, of this
 * process or another one; one that was unknown starts empty. NULL if it does
 * not come within so many milliseconds, or if there is no room.
 */
struct lun *state_get(const char *wwid, int ms);
/* Keep it, and give it to the next one. */
void state_put(struct lun *);
/*
 * Write it down as it is now, so that a successor of a helper that is killed
 * this moment knows it.
 */
void state_save(struct lun *);
/*
 * The wwid of the ith logical unit for which there is something to look after:
 * a key, or a mark that is not clean; what somebody has at the moment is left
 * out. 0, or -1: there are no more. One thread only.
 */
int state_next(int *i, char wwid[WWID_LEN]);
/* Has anybody a unit at the moment? */
int state_busy(void);
/*
 * Keep state in a directory: make it or take it over, for a user, before
 * privileges are dropped, and read what a predecessor of this boot left there.
 * NULL: beside a helper that may have it. Returns its descriptor. What is
 * wrong with it is said once; then that is -1, and all is in memory only.
 */
int state_open(const char *dir, const struct ids *);
/* At the end of a helper: leave it empty, if nothing is remembered. */
void state_close(void);
/* What a file of this boot says. 0, or -1: it is not exactly what we write. */
int state_parse(char *text, struct lun *);

/* util.c: helpers without state but argv0, verbosity and the trace sink */

enum { LOG_ERRORS = -1, LOG_NORMAL, LOG_VERBOSE };
extern int verbosity;

extern int die_status; /* 1, but for who wants another one */
/*
 * Print a line, with the errno text if it ends in a colon; then exit with
 * die_status.
 */
_Noreturn void die(const char *, ...) __attribute__((format(printf, 1, 2)));
/* The same without the end, 30 times in a minute. errno is left as it was. */
void warn(const char *, ...) __attribute__((format(printf, 1, 2)));
/* A line for those who asked for this verbosity. */
void say(int level, const char *, ...) __attribute__((format(printf, 2, 3)));
/* From now on messages go to syslog(3). */
void log_to_syslog(void);

/* Big-endian numbers in bytes. */
uint32_t get32(const uint8_t *);
uint64_t get64(const uint8_t *);
void put32(uint8_t *, uint32_t);
void put64(uint8_t *, uint64_t);
/* A whole number in decimal, 0 to INT_MAX; -1 if it is anything else. */
int number(const char *);

/* Start a detached thread with a stack of WORKER_STACK. 0, or an errno. */
int thread_start(void *(*)(void *), void *);

/*
 * Write our pid into a file, unless it names another process that lives: one
 * in state Z or X is dead, even while a thread of it hangs. Dies on failure.
 */
void pidfile_write(const char *path);
/*
 * Does another process with this pid live? By /proc/PID/stat; without /proc by
 * kill(pid, 0).
 */
int pid_alive(pid_t);
/* Tell a service manager, if there is one: sd_notify(3). */
void notify(const char *state);

/* The trace points; names in util.c, in this order. */
enum trace {
	TRACE_ACCEPT,
	TRACE_HANDOFF,
	TRACE_REQUEST,
	TRACE_REFUSED,
	TRACE_SG_IO,
	TRACE_SG_DONE,
	TRACE_DM_MAP,
	TRACE_PATH_DONE,
	TRACE_PATH_STEP,
	TRACE_REPLY,
	TRACE_QUIET,
	TRACE_CLOSE,
	TRACE_MAX
};
extern uint8_t tracing[TRACE_MAX];

/* Parse one -T argument as QEMU does. Dies if it is wrong; "help" exits. */
void trace_option(const char *);
void trace_print(enum trace, const char *, ...)
    __attribute__((format(printf, 2, 3)));
#define trace(tp, ...) \
	do { \
		if (tracing[tp]) \
			trace_print(tp, __VA_ARGS__); \
	} while (0)
