/* See LICENSE file for copyright and license details. */
/*
 * Start-up, the client table, the poll() loop, the workers, the end.
 *
 * A connection belongs either to the loop, which waits until it is readable,
 * or to one worker thread, which serves it with plain blocking calls and
 * gives it back after a second of quiet. So the loop never waits for a client
 * or a disk, and the requests of a burst meet no hand-off between them.
 *
 * The states of slot i:
 *	free		clients[i].sock < 0, or i >= top
 *	quiet		quiet[i].fd is the socket: the loop's
 *	handed off	in the queue work or refuse, or with its worker
 *	given back	in the queue returned; closed if gone is set
 */
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/time.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "prhelper.h"

#define DEFAULT_PIDFILE "/var/run/qemu-pr-helper.pid"

struct client {
	struct client *next; /* in a queue */
	int64_t deadline;    /* of the greeting */
	int sock;            /* -1: the slot is free */
	int greeted;         /* the peer's feature bits came */
	int gone;            /* the worker closed it */
	pid_t pid;           /* SO_PEERCRED */
	uid_t uid;
	atomic_int owed; /* a reply is owed; who clears it sends it */
};

struct queue {
	struct client *head, **tail;
	int length;
	int parked; /* threads that wait for work */
};

/* Indices of pfd; from PFD_CLIENT on, those of clients. */
enum { PFD_SIGNAL, PFD_RETURNED, PFD_LISTEN, PFD_CLIENT };

static struct client clients[CLIENTS_MAX];
static struct pollfd pfd[PFD_CLIENT + CLIENTS_MAX];
static struct pollfd *const quiet = &pfd[PFD_CLIENT]; /* fd -1: not quiet */
static int slots; /* how many clients there may be */
static int top;   /* slots from here on are free */
static int listener;
static int64_t accept_after; /* accept() ran out of something until then */
static atomic_int stopping;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the queues */
static pthread_cond_t work_cond, refuse_cond;
static struct queue work = { .tail = &work.head };
static struct queue refuse = { .tail = &refuse.head };
static struct queue returned = { .tail = &returned.head };

/* Ours to remove; the directory only if it is empty. */
static const char *socket_path;
static char *pid_path;
static char state_socket[sizeof(((struct sockaddr_un *)0)->sun_path) + 1],
    state_dir[sizeof(state_socket) + sizeof(STATE_SUFFIX)];

static void
push(struct queue *q, struct client *c)
{
	c->next = NULL;
	*q->tail = c;
	q->tail = &c->next;
	q->length++;
}

static struct client *
pop(struct queue *q)
{
	struct client *c = q->head;

	if (!c)
		return NULL;
	if (!(q->head = c->next))
		q->tail = &q->head;
	q->length--;
	return c;
}

/* Has the peer sent what was not read yet? */
static int
pending(int sock)
{
	int n = 0;

	return ioctl(sock, FIONREAD, &n) == 0 && n > 0;
}

/*
 * The last word to a client when the helper ends. From here on its writes
 * fail, so that it connects again; what it had sent before is still read.
 */
static void
last_call(const struct client *c)
{
	if (!pending(c->sock))
		shutdown(c->sock, SHUT_RD);
}

void
dispatch(struct request *rq, struct reply *rp)
{
	if (proto_check(rq, rp) < 0)
		return;
	if (sg_node(rq))
		sg_run(rq, rp);
	else
		mpath_run(rq, rp);
}

/* A request that was read; the reply is in place afterwards. */
static void
run(struct client *c, struct request *rq, struct reply *rp)
{
	trace(TRACE_REQUEST, "pid=%ld fd=%d opcode=%02x action=%02x len=%u",
	    (long)c->pid, rq->fd, rq->cdb[0], rq->cdb[1] & ACTION_MASK,
	    rq->len);
	dispatch(rq, rp);
	proto_log(rq, rp, c->pid, c->uid);
	/* First close, then reply: the guest may want the disk for itself. */
	close(rq->fd);
}

/* One request, read to reply. busy: there is no thread to run it. */
static int
serve_one(struct client *c, uint8_t *data, int busy)
{
	struct request rq = { .data = data };
	struct reply rp;
	int io;

	io = proto_read(c->sock, &rq);
	if (io != IO_DONE && io != IO_STARVED)
		return io;
	atomic_store(&c->owed, 1);
	if (io == IO_DONE && !busy) {
		run(c, &rq, &rp);
	} else {
		proto_status(&rp, BUSY);
		if (rq.fd >= 0)
			close(rq.fd);
	}
	if (!atomic_exchange(&c->owed, 0))
		return IO_LATE;
	trace(TRACE_REPLY, "pid=%ld status=%02x len=%u", (long)c->pid,
	    rp.status, rp.len);
	return proto_write(c->sock, &rq, &rp, 0);
}

/* Serve a connection until it is quiet, or gone. */
static void
serve(struct client *c, int busy)
{
	_Alignas(8) uint8_t data[DATA_MAX];
	int io = IO_DONE;

	if (!c->greeted) {
		io = proto_features(c->sock, c->deadline);
		c->greeted = io == IO_DONE;
	}
	while (io == IO_DONE) {
		if (atomic_load(&stopping))
			last_call(c);
		io = serve_one(c, data, busy);
		if (io == IO_QUIET && atomic_load(&stopping))
			io = IO_DONE;
		else if (busy)
			break;
	}
	c->gone = io != IO_DONE && io != IO_QUIET;
	if (!c->gone) {
		trace(TRACE_QUIET, "pid=%ld", (long)c->pid);
		return;
	}
	trace(TRACE_CLOSE, "pid=%ld", (long)c->pid);
	if (io != IO_GONE)
		say(LOG_VERBOSE, "pid %ld uid %lu: dropped: %s", (long)c->pid,
		    (unsigned long)c->uid, proto_strerror(io));
	/* Unread descriptors go with it: that may wait for their disks. */
	close(c->sock);
}

/*
 * Wait for work; NULL when there was none for PARK_TIME. The last one that
 * is parked stays, so that the next request finds it.
 */
static struct client *
park(struct queue *q, pthread_cond_t *cond)
{
	struct timespec end;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += PARK_TIME / 1000;
	q->parked++;
	while (!q->head) {
		if (q->parked == 1) {
			pthread_cond_wait(cond, &lock);
			continue;
		}
		r = pthread_cond_timedwait(cond, &lock, &end);
		if (r == ETIMEDOUT && q->parked > 1)
			break;
	}
	q->parked--;
	return pop(q);
}

static void
serve_queue(struct queue *q, pthread_cond_t *cond, int busy)
{
	static const uint64_t one = 1;
	struct client *c;

	pthread_mutex_lock(&lock);
	while ((c = park(q, cond))) {
		pthread_mutex_unlock(&lock);
		serve(c, busy);
		pthread_mutex_lock(&lock);
		push(&returned, c);
		/* Cannot fail: the counter is read long before it is full. */
		if (write(pfd[PFD_RETURNED].fd, &one, sizeof(one)) < 0)
			warn("eventfd:");
	}
	pthread_mutex_unlock(&lock);
}

static void *
worker(void *arg)
{
	(void)arg;
	serve_queue(&work, &work_cond, 0);
	return NULL;
}

/* The thread for those for whom no other can be had: it answers BUSY. */
static void *
refuser(void *arg)
{
	(void)arg;
	serve_queue(&refuse, &refuse_cond, 1);
	return NULL;
}

/* For the units that are remembered: returning paths, and what was missed. */
static void *
watcher(void *arg)
{
	(void)arg;
	while (!atomic_load(&stopping))
		dm_wait(mpath_look());
	return NULL;
}

/* Give a readable connection to a worker. */
static void
hand_off(int i)
{
	struct client *c = &clients[i];

	trace(TRACE_HANDOFF, "pid=%ld", (long)c->pid);
	quiet[i].fd = -1;
	pthread_mutex_lock(&lock);
	if (work.parked > work.length || thread_start(worker, NULL) == 0) {
		push(&work, c);
		pthread_cond_signal(&work_cond);
	} else {
		push(&refuse, c);
		pthread_cond_signal(&refuse_cond);
	}
	pthread_mutex_unlock(&lock);
}

static void
free_client(int i)
{
	clients[i].sock = -1;
	quiet[i].fd = -1;
	while (top > 0 && clients[top - 1].sock < 0)
		top--;
	accept_after = 0;
}

/* Only for a connection with nothing to read. */
static void
close_client(int i)
{
	trace(TRACE_CLOSE, "pid=%ld", (long)clients[i].pid);
	close(clients[i].sock);
	free_client(i);
}

/* SIGTERM: hand off what was received, close what is quiet. */
static void
retire(int i)
{
	last_call(&clients[i]);
	if (pending(clients[i].sock))
		hand_off(i);
	else
		close_client(i);
}

/* Take back what the workers are done with. */
static void
reclaim(void)
{
	struct client *c, *next;
	uint64_t count;
	int i;

	if (read(pfd[PFD_RETURNED].fd, &count, sizeof(count)) < 0)
		return;
	confine_report();
	pthread_mutex_lock(&lock);
	c = returned.head;
	returned.head = NULL;
	returned.tail = &returned.head;
	returned.length = 0;
	pthread_mutex_unlock(&lock);
	for (; c; c = next) {
		next = c->next;
		i = (int)(c - clients);
		if (c->gone) {
			free_client(i);
			continue;
		}
		quiet[i].fd = c->sock;
		quiet[i].revents = 0;
		if (atomic_load(&stopping))
			retire(i);
	}
}

/*
 * All guests of a host may have one uid: it gets most of the table, but no uid
 * keeps the others out. Root could do that anyway.
 */
static int
has_share(uid_t uid)
{
	int i, n = 0;

	for (i = 0; i < top; i++)
		n += clients[i].sock >= 0 && clients[i].uid == uid;
	return uid == 0 || n < slots - slots / OTHERS_SHARE;
}

static void
add_client(int i, int sock)
{
	static const struct timeval t = { .tv_sec = QUIET_TIME / 1000 };
	struct ucred cred = { .pid = 0 };
	socklen_t len = sizeof(cred);
	struct client *c = &clients[i];

	getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
	if (!has_share(cred.uid) || proto_greet(sock) != IO_DONE) {
		close(sock);
		return;
	}
	c->sock = sock;
	c->greeted = 0;
	c->gone = 0;
	c->pid = cred.pid;
	c->uid = cred.uid;
	c->deadline = now() + IO_TIME;
	quiet[i].fd = sock;
	quiet[i].events = POLLIN;
	quiet[i].revents = 0;
	if (i >= top)
		top = i + 1;
	trace(TRACE_ACCEPT, "pid=%ld uid=%lu", (long)cred.pid,
	    (unsigned long)cred.uid);
}

/* The first free slot, or slots if there is none. */
static int
free_slot(void)
{
	int i;

	for (i = 0; i < top && clients[i].sock >= 0; i++)
		;
	return i;
}

static void
accept_clients(void)
{
	int i, sock;

	while ((i = free_slot()) < slots) {
		sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (sock >= 0) {
			add_client(i, sock);
			continue;
		}
		if (errno == ECONNABORTED || errno == EINTR)
			continue;
		if (errno != EAGAIN) {
			warn("accept:");
			accept_after = now() + ACCEPT_PAUSE;
		}
		return;
	}
}

/* How long poll() may sleep; drops those who did not greet in time. */
static int
expire(int64_t end)
{
	int64_t t = now(), next = end;
	int i;

	if (accept_after <= t)
		accept_after = 0;
	else if (!next || accept_after < next)
		next = accept_after;
	for (i = 0; i < top; i++) {
		if (quiet[i].fd < 0 || clients[i].greeted)
			continue;
		if (clients[i].deadline <= t)
			close_client(i);
		else if (!next || clients[i].deadline < next)
			next = clients[i].deadline;
	}
	if (!next)
		return -1;
	return next <= t ? 0 : (int)(next - t);
}

static void
poll_once(int64_t end)
{
	int i, n, timeout = expire(end);

	/* A full table, or a lack of descriptors: they wait in the backlog. */
	pfd[PFD_LISTEN].fd =
	    free_slot() < slots && !accept_after ? listener : -1;
	n = poll(pfd, (nfds_t)PFD_CLIENT + (nfds_t)top, timeout);
	if (n < 0)
		return;
	for (i = 0; i < top; i++) {
		if (quiet[i].fd < 0 || !quiet[i].revents)
			continue;
		if (quiet[i].revents & (POLLHUP | POLLERR) &&
		    !pending(clients[i].sock))
			close_client(i);
		else
			hand_off(i);
	}
	if (pfd[PFD_RETURNED].revents)
		reclaim();
	if (pfd[PFD_LISTEN].fd >= 0 && pfd[PFD_LISTEN].revents)
		accept_clients();
}

/*
 * What still hangs is answered: the command may have been executed or may
 * yet be. Its thread finds that nothing is owed any more, if it comes back.
 */
static void
give_up(void)
{
	static const struct request rq;
	struct reply rp;
	int i;

	proto_sense(&rp, IO_TERMINATED);
	for (i = 0; i < top; i++) {
		if (clients[i].sock < 0 ||
		    !atomic_exchange(&clients[i].owed, 0))
			continue;
		warn("pid %ld: command given up", (long)clients[i].pid);
		proto_write(clients[i].sock, &rq, &rp, MSG_DONTWAIT);
	}
}

static void
remove_files(void)
{
	/* Not ours to remove any more after -u: nothing to complain about. */
	if (socket_path)
		unlink(socket_path);
	if (pid_path)
		unlink(pid_path);
	free(pid_path);
	socket_path = pid_path = NULL;
	/* Empty, or it stays; where there is a socket it has a successor. */
	if (state_dir[0] && access(state_socket, F_OK) < 0) {
		state_close();
		rmdir(state_dir);
	}
	confine_report();
}

static void
stop(void)
{
	int64_t end = now() + STOP_TIME;
	int i;

	atomic_store(&stopping, 1);
	if (socket_path)
		unlink(socket_path);
	socket_path = NULL;
	pfd[PFD_SIGNAL].fd = -1; /* once is enough */
	close(listener);
	slots = 0;
	for (i = top - 1; i >= 0; i--)
		if (quiet[i].fd >= 0)
			retire(i);
	while (top > 0 && now() < end)
		poll_once(end);
	give_up();
}

static void
loop(void)
{
	while (!pfd[PFD_SIGNAL].revents)
		poll_once(0);
	say(LOG_VERBOSE, "stopping");
	stop();
}

/* Descriptors: as many as allowed; two for each client, his and a disk's. */
static void
count_slots(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		die("getrlimit RLIMIT_NOFILE:");
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
		die("setrlimit RLIMIT_NOFILE:");
	if (rl.rlim_cur < FD_RESERVE + 2)
		die("RLIMIT_NOFILE: the hard limit is below %d",
		    FD_RESERVE + 2);
	slots = CLIENTS_MAX;
	if (rl.rlim_cur < FD_RESERVE + 2 * CLIENTS_MAX)
		slots = ((int)rl.rlim_cur - FD_RESERVE) / 2;
}

static void
init_loop(void)
{
	pthread_condattr_t attr;
	sigset_t set;
	int i;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		die("sigprocmask:");
	pfd[PFD_SIGNAL].fd = signalfd(-1, &set, SFD_CLOEXEC);
	pfd[PFD_RETURNED].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pfd[PFD_SIGNAL].fd < 0)
		die("signalfd:");
	if (pfd[PFD_RETURNED].fd < 0)
		die("eventfd:");
	for (i = 0; i < PFD_CLIENT; i++)
		pfd[i].events = POLLIN;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&work_cond, &attr);
	pthread_cond_init(&refuse_cond, &attr);
	pthread_condattr_destroy(&attr);
}

static void
start_threads(int dm)
{
	if ((errno = thread_start(refuser, NULL)) ||
	    (dm && (errno = thread_start(watcher, NULL))))
		die("pthread_create:");
}

/*
 * Keep state beside the socket, if that has a path; NULL: it is not ours. The
 * directory, or -1.
 */
static int
open_state(const char *path, const struct ids *ids)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(sun);

	if (!path && getsockname(listener, (struct sockaddr *)&sun, &len) == 0)
		path = sun.sun_path;
	if (!path || path[0] != '/')
		return -1;
	snprintf(state_socket, sizeof(state_socket), "%s", path);
	snprintf(state_dir, sizeof(state_dir), "%s" STATE_SUFFIX, state_socket);
	return state_open(state_dir, ids);
}

/* A closed 0, 1 or 2 would become a socket that messages end up in. */
static void
fill_std(void)
{
	int fd;

	do {
		if ((fd = open("/dev/null", O_RDWR)) < 0)
			die("/dev/null:");
	} while (fd <= 2);
	close(fd);
}

/*
 * Fork; the parent waits for a byte that says that start-up worked, and
 * returns its exit status. Returns the child's end of the pipe.
 */
static int
background(void)
{
	int end[2];
	char c;
	pid_t pid;

	if (pipe2(end, O_CLOEXEC) < 0)
		die("pipe:");
	if ((pid = fork()) < 0)
		die("fork:");
	if (pid > 0) {
		close(end[1]);
		_exit(read(end[0], &c, 1) == 1 ? 0 : 1);
	}
	close(end[0]);
	return end[1];
}

static void
detach(int parent)
{
	int fd;

	if (setsid() < 0 || chdir("/") < 0)
		die("detach:");
	if ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
		die("/dev/null:");
	dup2(fd, 0);
	dup2(fd, 1);
	if (write(parent, "", 1) != 1)
		die("detach:");
	dup2(fd, 2);
	close(fd);
	close(parent);
	log_to_syslog();
}

static void
usage(void)
{
	fputs("usage: prhelper [-dqv] [-f pidfile] [-k socket] [-u user] "
	      "[-g group]\n"
	      "                [-T [[enable=]pattern][,events=file]"
	      "[,file=file]]\n"
	      "       prhelper status|in|out -h\n"
	      "       prhelper -h | -V\n"
	      "\n"
	      "  -d, --daemon         go to the background\n"
	      "  -q, --quiet          print errors only\n"
	      "  -v, --verbose        print a line for each change of a "
	      "reservation\n"
	      "  -f, --pidfile=PATH   default " DEFAULT_PIDFILE "\n"
	      "  -k, --socket=PATH    default " DEFAULT_SOCKET "\n"
	      "  -T, --trace=POINTS   trace; \"help\" lists the points\n"
	      "  -u, --user=USER      user to run as, name or number\n"
	      "  -g, --group=GROUP    group to run as, name or number\n"
	      "  -h, --help           print this\n"
	      "  -V, --version        print the version\n",
	    stdout);
	exit(fflush(stdout) == 0 ? 0 : 1);
}

struct options {
	const char *socket, *pidfile, *user, *group;
	int daemon;
};

static void
parse(struct options *o, int argc, char *argv[])
{
	static const char shorts[] = ":df:g:hk:qT:u:vV";
	/* clang-format off */
	static const struct option longs[] = {
		{ "daemon", no_argument, NULL, 'd' },
		{ "group", required_argument, NULL, 'g' },
		{ "help", no_argument, NULL, 'h' },
		{ "pidfile", required_argument, NULL, 'f' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "socket", required_argument, NULL, 'k' },
		{ "trace", required_argument, NULL, 'T' },
		{ "user", required_argument, NULL, 'u' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 }
	};
	/* clang-format on */
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) >= 0) {
		switch (c) {
		case 'd': o->daemon = 1; break;
		case 'f': o->pidfile = optarg; break;
		case 'g': o->group = optarg; break;
		case 'h': usage(); break;
		case 'k': o->socket = optarg; break;
		case 'q': verbosity = LOG_ERRORS; break;
		case 'T': trace_option(optarg); break;
		case 'u': o->user = optarg; break;
		case 'v': verbosity++; break;
		case 'V':
			puts("prhelper " VERSION);
			exit(fflush(stdout) == 0 ? 0 : 1);
		case ':': die("option -%c: needs an argument", optopt); break;
		default:
			if (!optopt)
				die("option %s: unknown; see -h",
				    argv[optind - 1]);
			if (!strchr(shorts, optopt))
				die("option -%c: unknown; see -h", optopt);
			die("option %s: takes no argument", argv[optind - 1]);
		}
	}
	if (optind < argc)
		die("operand %s: none is taken; see -h", argv[optind]);
	if (o->socket && o->socket[0] != '/')
		die("socket %s: must be an absolute path", o->socket);
}

/* Who starts it by the peer's name wants what the peer does. */
static int
is_alias(const char *path)
{
	const char *name = strrchr(path, '/');

	return strcmp(name ? name + 1 : path, "qemu-pr-helper") == 0;
}

int
main(int argc, char *argv[])
{
	struct options o = { 0 };
	struct ids ids;
	int activated, dm, state = -1, parent = -1;

	fill_std();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file may be at its limit */
	if (argc > 1 && !is_alias(argv[0]) && ctl_knows(argv[1]))
		ctl(argc - 1, argv + 1);
	parse(&o, argc, argv);
	if ((activated = sock_activated()) && o.socket)
		die("socket %s: not with socket activation", o.socket);
	if (activated)
		sock_adopt(SOCK_ACTIVATED_FD);
	priv_lookup(&ids, o.user, o.group);
	count_slots();
	if (o.daemon)
		parent = background();
	dm = dm_init();
	if (!o.pidfile && o.daemon)
		o.pidfile = DEFAULT_PIDFILE;
	atexit(remove_files);
	if (o.pidfile)
		pidfile_write(o.pidfile);
	/* In full: -d changes the directory. */
	if (o.pidfile && !(pid_path = realpath(o.pidfile, NULL)))
		die("pid file %s:", o.pidfile);
	if (!o.socket)
		o.socket = DEFAULT_SOCKET;
	listener = activated ? SOCK_ACTIVATED_FD : sock_listen(o.socket);
	if (!activated)
		socket_path = o.socket;
	if (dm)
		state = open_state(activated ? NULL : o.socket, &ids);
	priv_drop(&ids, dm);
	init_loop();
	confine(pfd[PFD_RETURNED].fd, state,
	    socket_path ? socket_path : state_socket, pid_path);
	start_threads(dm);
	if (o.daemon)
		detach(parent);
	notify("READY=1");
	loop();
	exit(0);
}
