/* See LICENSE file for copyright and license details. */
/*
 * play: plays what `sim -f SEED` has printed on real disks, and compares.
 *
 *	play SOCKET NAME=DEVICE... <TRANSCRIPT
 *
 * Each line is a step, as sim/sim.c describes them: a command to a device
 * through the helper and the answer that is expected, or a path that goes down
 * or comes up. The first answer that is another one is printed beside what it
 * should have been, and ends the play: what follows could not be the same.
 * Exit status: 0 all was as expected, 1 it was not, 3 wrong use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

#define ACTORS 8
#define SETTLE_MAX 100 /* tenths of a second */
#define STEPMAX (2 * LINEMAX)

struct actor {
	char *name;
	char *node; /* sda of /dev/sda */
	int sock, dev;
};

static struct actor actors[ACTORS];
static int n_actors, step;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "play: step %d: %s: %s\n", step, what, why);
	exit(3);
}

static void
arrive(const char *sock, char *arg)
{
	struct actor *a = &actors[n_actors++];
	char *device = strchr(arg, '=');

	if (n_actors > ACTORS || !device)
		die(arg, "NAME=DEVICE");
	*device++ = '\0';
	a->name = arg;
	a->node = strrchr(device, '/');
	a->dev = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	a->sock = dial(sock);
	if (!a->node++ || a->dev < 0 || handshake(a->sock, -1) < 0)
		die(device, strerror(errno));
}

static struct actor *
find(const char *name)
{
	int i;

	for (i = 0; i < n_actors; i++)
		if (!strcmp(actors[i].name, name))
			return &actors[i];
	die(name, "nobody");
	return NULL;
}

static void
set_state(const struct actor *a, const char *state)
{
	char path[128];
	size_t n = strlen(state);
	int fd;

	snprintf(path, sizeof(path), "/sys/block/%s/device/state", a->node);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, state, n) != (ssize_t)n)
		die(path, strerror(errno));
	close(fd);
}

/* The command in hex, CDB[:LIST], to the device: its answer as text. */
static void
ask(const struct actor *a, char *command, char *text)
{
	unsigned char cdb[CDBLEN] = { 0 }, list[DATAMAX];
	char *colon = strchr(command, ':');
	struct answer answer;
	long len = 0;

	if (colon) {
		*colon = '\0';
		len = unhex(list, DATAMAX, colon + 1, strlen(colon + 1));
	}
	if (len < 0 || unhex(cdb, CDBLEN, command, strlen(command)) < 1)
		die(command, "no command");
	if (colon)
		*colon = ':';
	if (sendfds(a->sock, cdb, CDBLEN, &a->dev, 1) < 0 ||
	    writen(a->sock, list, (size_t)len) < 0 ||
	    readanswer(a->sock, cdb, &answer, -1) < 0)
		strcpy(text, "closed");
	else
		answer_line(text, &answer, 0);
}

/* Is the answer as expected? An x there fits anything. */
static int
fits(const char *got, const char *want)
{
	for (; *want && (*got == *want || (*want == 'x' && *got)); want++)
		got++;
	return *got == *want;
}

/*
 * The helper looks at returned paths when it likes: wait until all is as it
 * must become, and then for what it does last.
 */
static void
settle(const struct actor *a, char *command, const char *want, char *got)
{
	int i;

	for (i = 0; i < SETTLE_MAX; i++) {
		ask(a, command, got);
		if (fits(got, want))
			break;
		usleep(100000);
	}
	usleep(700000);
}

/* Is the answer as expected? */
static int
play(char *line)
{
	static char got[LINEMAX];
	char *name = line, *command, *want;
	int wait = !strncmp(line, "settle ", 7);

	if (wait)
		name += 7;
	if (!(command = strchr(name, ' ')))
		die(line, "no step");
	*command++ = '\0';
	if (!strcmp(name, "down") || !strcmp(name, "up")) {
		set_state(find(command),
		    *name == 'd' ? "offline\n" : "running\n");
		return 1;
	}
	if (!(want = strstr(command, " => ")))
		die(command, "no answer");
	*want = '\0';
	want += 4;
	if (wait)
		settle(find(name), command, want, got);
	else
		ask(find(name), command, got);
	if (fits(got, want))
		return 1;
	printf("step %d: %s %s\n got: %s\nwant: %s\n", step, name, command,
	    got, want);
	return 0;
}

int
main(int argc, char *argv[])
{
	static char line[STEPMAX];
	int i;

	if (argc < 3)
		die("usage", "play SOCKET NAME=DEVICE... <TRANSCRIPT");
	for (i = 2; i < argc; i++)
		arrive(argv[1], argv[i]);
	while (fgets(line, sizeof(line), stdin)) {
		step++;
		line[strcspn(line, "\n")] = '\0';
		if (!play(line))
			return 1;
	}
	return 0;
}
