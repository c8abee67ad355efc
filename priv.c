/* See LICENSE file for copyright and license details. */
/*
 * Privileges: looked up before anything is opened, dropped once, before the
 * first thread. One straight path; each refusal is named and final.
 */
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <unistd.h>

#include "prhelper.h"

#define NONE ((uid_t)-1)
#define BIT(cap) ((uint64_t)1 << (cap))

void
priv_lookup(struct ids *ids, const char *user, const char *group)
{
	struct passwd *pw = NULL;
	struct group *gr;
	int n;

	ids->uid = NONE;
	ids->gid = NONE;
	if (user) {
		n = number(user);
		pw = n >= 0 ? getpwuid((uid_t)n) : getpwnam(user);
		if (!pw && n < 0)
			die("user %s: unknown", user);
		ids->uid = pw ? pw->pw_uid : (uid_t)n;
	}
	if (group) {
		n = number(group);
		gr = n >= 0 ? NULL : getgrnam(group);
		if (!gr && n < 0)
			die("group %s: unknown", group);
		ids->gid = gr ? gr->gr_gid : (gid_t)n;
	} else if (pw) {
		ids->gid = pw->pw_gid;
	} else if (user) {
		die("user %s: no passwd entry; name a group", user);
	}
}

/* Capabilities belong to a thread: so before there is a second one. */
static int
set_caps(uint64_t caps)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
		{ .effective = (uint32_t)caps, .permitted = (uint32_t)caps },
		{ .effective = (uint32_t)(caps >> 32),
		    .permitted = (uint32_t)(caps >> 32) },
	};

	return (int)syscall(SYS_capset, &head, data);
}

/*
 * A container may lack CAP_SETPCAP. no_new_privs then does alone what the
 * empty set is for: nothing that is executed gets a capability.
 */
static void
empty_bounding_set(void)
{
	int cap;

	for (cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			die("prctl PR_CAPBSET_DROP %d:", cap);
}

void
priv_drop(const struct ids *ids, int dm)
{
	uint64_t caps = BIT(CAP_SYS_RAWIO);

	if (dm)
		caps |= BIT(CAP_SYS_ADMIN);
	if (dm && ids->uid != NONE && ids->uid != 0)
		caps |= BIT(CAP_DAC_READ_SEARCH);
	empty_bounding_set();
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		die("prctl PR_SET_KEEPCAPS:");
	if (ids->gid != NONE) {
		if (setgroups(0, NULL) < 0)
			die("setgroups:");
		if (setresgid(ids->gid, ids->gid, ids->gid) < 0)
			die("setresgid %lu:", (unsigned long)ids->gid);
	}
	if (ids->uid != NONE && setresuid(ids->uid, ids->uid, ids->uid) < 0)
		die("setresuid %lu:", (unsigned long)ids->uid);
	if (set_caps(caps) < 0)
		die("capset CAP_SYS_RAWIO%s%s:",
		    caps & BIT(CAP_SYS_ADMIN) ? " CAP_SYS_ADMIN" : "",
		    caps & BIT(CAP_DAC_READ_SEARCH) ? " CAP_DAC_READ_SEARCH" :
						      "");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 &&
	    errno != EINVAL) /* Linux before 4.3 */
		die("prctl PR_CAP_AMBIENT_CLEAR_ALL:");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("prctl PR_SET_NO_NEW_PRIVS:");
}
