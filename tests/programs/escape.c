/* Tries to get out of where it runs, one way for each word of its command line, and says
 * "escaped: WORD ..." for each that worked. Linked statically, so that it runs in any image.
 *
 *   ptrace PID…        attach to other processes
 *   raw                open raw and packet sockets
 *   mount DIR          mount something there, also in a user namespace of its own
 *   device DIR         make a device there and read it
 *   root               become user 0 of the outside: whether files of it can be opened
 *   kernel             load a module, kexec, set the clock, reboot's switch
 *   keys               find the key that stands in the keyring of the worker's session
 *   calls              make system calls that no confined script has a use for
 *   archs              make one as a program of another architecture
 *   handle DIR         open a file by its handle, past all folders
 *   fork N             start N processes; says how many there were
 *   memory MIB         use that much memory; says how much there was
 *   handed SOCKET      take a descriptor of a folder from whoever comes to that socket (a file, or @NAME for
 *                      an abstract one), and use it in all ways
 *   fetch SOCKET       the same, going to that socket
 *   euid               says which user it is by its file
 *
 * And those that prepare the worker, or are its friend outside:
 *
 *   with-key PROGRAM…  put a key into a session keyring of its own and go on as the program
 *   hand SOCKET DIR    hand that folder to whoever waits at that socket
 *   offer SOCKET DIR   the same to whoever comes there
 *   as UID PROGRAM…    go on as the program and that user
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Of the key that a worker must keep to itself. */
#define KEY_NAME "distcifs-test"

static void report(int worked, const char *what)
{
	if (worked)
		printf("escaped: %s\n", what);
	fflush(stdout);
}

static void try_mount(const char *dir, const char *how)
{
	char what[64];
	snprintf(what, sizeof what, "mount %s", how);
	int worked = mount("none", dir, "tmpfs", 0, NULL) == 0;
	report(worked, what);
	if (worked)
		umount2(dir, MNT_DETACH);
	snprintf(what, sizeof what, "bind mount %s", how);
	worked = mount(dir, dir, NULL, MS_BIND, NULL) == 0;
	report(worked, what);
	if (worked)
		umount2(dir, MNT_DETACH);
}

static void in_own_namespace(const char *dir)
{
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
			report(1, "user namespace");
			try_mount(dir, "in a user namespace");
		}
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

static void by_handle(const char *dir)
{
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	struct file_handle *handle = (struct file_handle *)room;
	int id, at = open(dir, O_RDONLY | O_DIRECTORY);
	handle->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(at, "", handle, &id, AT_EMPTY_PATH) != 0)
		return;
	report(open_by_handle_at(at, handle, O_RDONLY) >= 0, "file handle");
}

static void forks(long wanted)
{
	long count = 0;
	signal(SIGCHLD, SIG_IGN);
	for (; count < wanted; count++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pause();
			_exit(0);
		}
	}
	printf("processes: %ld\n", count);
	report(count >= wanted, "processes");
}

static void memory(long wanted)
{
	long mib = 0;
	for (; mib < wanted; mib++) {
		char *block = malloc(1 << 20);
		if (block == NULL)
			break;
		memset(block, 1, 1 << 20);
		if (mib % 64 == 0) {
			printf("memory: %ld MiB\n", mib);
			fflush(stdout);
		}
	}
	report(mib >= wanted, "memory");
}

/* Whether a call came as far as the kernel's own checks: a filter says no before it looks. */
static int came_through(long result)
{
	return result >= 0 || (errno != EPERM && errno != ENOSYS && errno != EAFNOSUPPORT);
}

static void calls(void)
{
	char params[256] = { 0 };
	report(came_through(socket(AF_VSOCK, SOCK_STREAM, 0)), "vsock");
	report(came_through(socket(AF_ALG, SOCK_SEQPACKET, 0)), "ciphers of the kernel");
	report(came_through(syscall(SYS_userfaultfd, 1)), "userfaultfd");
	report(came_through(syscall(SYS_add_key, "user", "x", "y", 1, KEY_SPEC_SESSION_KEYRING)), "add_key");
	report(came_through(syscall(SYS_request_key, "user", "x", NULL, 0)), "request_key");
	report(came_through(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)), "keyctl");
	report(came_through(syscall(SYS_bpf, 0, NULL, 0)), "bpf");
	report(came_through(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0)), "perf_event_open");
	report(came_through(syscall(SYS_io_uring_setup, 1, params)), "io_uring");
	report(came_through(syscall(SYS_clone3, NULL, 0)), "clone3");
	report(came_through(syscall(SYS_open_by_handle_at, -1, NULL, 0)), "open_by_handle_at");
	/* Of these the kernel looks at the words before it asks for the right. */
	report(came_through(syscall(SYS_mount, 1, 1, 1, 0, NULL)), "mount");
	report(came_through(syscall(SYS_umount2, 1, 0x1000)), "umount2");
	report(came_through(ioctl(0, TIOCSTI, "x")), "TIOCSTI");
	report(came_through(ioctl(0, TIOCLINUX, "x")), "TIOCLINUX");
}

#ifdef __x86_64__
static void archs(void)
{
	int status;
	report(came_through(syscall(0x40000000 | SYS_getpid)), "x32");
	pid_t pid = fork();
	if (pid == 0) {
		long result;
		__asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
		_exit(result <= 0);
	}
	waitpid(pid, &status, 0);
	report(WIFEXITED(status) && WEXITSTATUS(status) == 0, "32 bits");
}
#else
static void archs(void)
{
}
#endif

static void kernel(void)
{
	struct timeval now;
	report(syscall(SYS_init_module, NULL, 0, "") == 0 || errno == ENOEXEC || errno == EFAULT, "module");
	report(syscall(SYS_kexec_load, 0, 0, NULL, 0) == 0, "kexec");
	gettimeofday(&now, NULL);
	report(settimeofday(&now, NULL) == 0, "clock");
	report(syscall(SYS_reboot, 0xfee1dead, 672274793, 0x89abcdef, NULL) == 0, "ctrl-alt-del");
}

/* A socket of this name, and the address for it; @NAME is an abstract one. */
static int socket_of(const char *name, struct sockaddr_un *address, socklen_t *length)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof address->sun_path, "%s", name);
	*length = offsetof(struct sockaddr_un, sun_path) + strlen(address->sun_path);
	if (*name == '@')
		address->sun_path[0] = 0;
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

/* A connection by a socket: to it, or from who comes there. 30 s are longer than any of them takes. */
static int connection(const char *name, int await)
{
	struct sockaddr_un address;
	socklen_t length;
	struct timeval patience = { .tv_sec = 30 };
	int fd = socket_of(name, &address, &length);
	if (!await) {
		int left = 300;
		while (connect(fd, (struct sockaddr *)&address, length) != 0) {
			if (errno == EPERM || left-- == 0)
				return -1;
			usleep(100000);
		}
		return fd;
	}
	mode_t old = umask(0);
	if (bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 1) != 0)
		return -1;
	umask(old);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	puts("waits");
	fflush(stdout);
	return accept(fd, NULL, NULL);
}

/* Sends a descriptor, or receives one if it is negative. */
static int pass(int connection, int fd)
{
	char byte = 'x';
	struct iovec data = { &byte, 1 };
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr head;
	} control;
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof control };
	struct cmsghdr *head;
	memset(&control, 0, sizeof control);
	if (fd < 0) {
		if (recvmsg(connection, &message, 0) != 1 || !(head = CMSG_FIRSTHDR(&message)))
			return -1;
		memcpy(&fd, CMSG_DATA(head), sizeof fd);
		return fd;
	}
	head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	return sendmsg(connection, &message, 0) == 1 ? fd : -1;
}

/* One use of what was handed over: it must be refused, and by what refuses descriptors. */
static void used(int result, const char *what)
{
	int why = errno;
	report(result >= 0, what);
	if (result < 0 && why != EACCES)
		printf("odd: %s: %s\n", what, strerror(why));
}

/* One use that only the kernel's rules of owners and modes decide, as Landlock has no say in it. */
static void ruled(int result, const char *what)
{
	int why = errno;
	if (result >= 0)
		printf("let: %s\n", what);
	else if (why != EPERM && why != EACCES)
		printf("odd: %s: %s\n", what, strerror(why));
}

/* Modes, owners, times and attributes of what is in the folder, and a socket in it. */
static void use_by_rule(int dir)
{
	char path[96];
	struct sockaddr_un address;
	socklen_t length;
	struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
	snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
	ruled(fchmod(dir, 0700), "mode of the handed folder");
	ruled(fchown(dir, getuid(), getgid()), "owner of the handed folder");
	ruled(futimens(dir, times), "time of the handed folder");
	ruled(fchmodat(dir, "there", 04755, 0), "mode of a file in it");
	ruled(fchownat(dir, "there", getuid(), getgid(), 0), "owner of a file in it");
	ruled(utimensat(dir, "there", times, 0), "time of a file in it");
	snprintf(path, sizeof path, "/proc/self/fd/%d/program", dir);
	ruled(setxattr(path, "user.x", "y", 1, 0), "attribute of a program in it");
	ruled(utimensat(dir, "program", NULL, 0), "time of now of a program in it");
	snprintf(path, sizeof path, "/proc/self/fd/%d/there", dir);
	ruled(setxattr(path, "user.x", "y", 1, 0), "attribute of what all may write");
	ruled(utimensat(dir, "there", NULL, 0), "time of now of what all may write");
	snprintf(path, sizeof path, "/proc/self/fd/%d/listens", dir);
	int fd = socket_of(path, &address, &length);
	ruled(connect(fd, (struct sockaddr *)&address, length), "connection to a socket that all may write");
	close(fd);
}

/* What a script would do with a folder of the node that its friend opened for it. */
static void use(int dir)
{
	char link[64], program[96];
	char *words[] = { "x", NULL }, *none[] = { NULL };
	struct sockaddr_un address;
	socklen_t length;
	snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
	snprintf(program, sizeof program, "%s/socket", link);
	use_by_rule(dir);
	int made = openat(dir, "suid", O_CREAT | O_WRONLY, 04755);
	used(made, "handed file");
	if (made >= 0 && fchmod(made, 04755) == 0)
		printf("escaped: a program that is set-user-id of %u\n", getuid());
	used(openat(dir, ".", O_TMPFILE | O_RDWR, 04755), "handed file without a name");
	used(openat(dir, "there", O_RDONLY), "handed file that is there");
	used(openat(dir, "there", O_WRONLY), "handed file to write");
	used(openat(dir, "there", O_WRONLY | O_TRUNC), "handed file to cut");
	used(openat(dir, ".", O_RDONLY | O_DIRECTORY), "handed folder");
	used(openat(dir, "inner", O_RDONLY | O_DIRECTORY), "folder in the handed one");
	used(open(link, O_RDONLY | O_DIRECTORY), "handed folder by its number");
	used(mkdirat(dir, "made", 0777), "folder made in it");
	used(symlinkat("there", dir, "soft"), "link made in it");
	used(mknodat(dir, "fifo", S_IFIFO | 0666, 0), "fifo made in it");
	used(unlinkat(dir, "old", 0), "file removed from it");
	used(renameat(dir, "there", dir, "moved"), "file renamed in it");
	int fd = socket_of(program, &address, &length);
	used(bind(fd, (struct sockaddr *)&address, length), "socket made in it");
	snprintf(program, sizeof program, "%s/program", link);
	used(access(program, X_OK) == 0 ? execve(program, words, none) : -1, "program in it");
}

static void handed(const char *name, int await)
{
	int peer = connection(name, await);
	/* To go to a socket of somebody outside is refused where the kernel can say so. */
	if (peer < 0 && !await && errno == EPERM) {
		puts("used up");
		return;
	}
	int dir = peer < 0 ? -1 : pass(peer, -1);
	if (dir < 0) {
		printf("odd: nothing was handed over: %s\n", strerror(errno));
		return;
	}
	/* What becomes another program says nothing more. */
	pid_t pid = fork();
	if (pid == 0) {
		use(dir);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	puts("used up");
}

static int hand(const char *name, int await, const char *folder)
{
	int dir = open(folder, O_RDONLY | O_DIRECTORY);
	int peer = connection(name, await);
	char byte;
	if (dir < 0 || peer < 0 || pass(peer, dir) < 0)
		return 1;
	/* Until it is done. */
	return read(peer, &byte, 1) < 0;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i], *next = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(word, "with-key")) {
			syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
			syscall(SYS_add_key, "user", KEY_NAME, "secret", 6, KEY_SPEC_SESSION_KEYRING);
			execvp(next, argv + i + 1);
			return 127;
		}
		if (!strcmp(word, "hand") || !strcmp(word, "offer"))
			return hand(next, *word == 'o', i + 2 < argc ? argv[i + 2] : "");
		if (!strcmp(word, "as") && i + 2 < argc) {
			uid_t user = atoi(next);
			if (setresgid(user, user, user) == 0 && setresuid(user, user, user) == 0)
				execv(argv[i + 2], argv + i + 2);
			return 127;
		}
		if (!strcmp(word, "ptrace")) {
			while (i + 1 < argc && atoi(argv[i + 1]) > 0) {
				char what[64];
				pid_t pid = atoi(argv[++i]);
				snprintf(what, sizeof what, "ptrace %d", pid);
				report(ptrace(PTRACE_SEIZE, pid, 0, 0) == 0, what);
				snprintf(what, sizeof what, "signal %d", pid);
				report(kill(pid, 0) == 0, what);
			}
		} else if (!strcmp(word, "raw")) {
			report(socket(AF_INET, SOCK_RAW, 1) >= 0, "raw socket");
			report(socket(AF_PACKET, SOCK_RAW, 0) >= 0, "packet socket");
		} else if (!strcmp(word, "mount")) {
			try_mount(next, "");
			in_own_namespace(next);
		} else if (!strcmp(word, "device")) {
			char path[4096];
			int fd;
			snprintf(path, sizeof path, "%s/device", next);
			fd = mknod(path, S_IFBLK | 0600, makedev(254, 0)) == 0 ? open(path, O_RDONLY) : -1;
			report(fd >= 0, "device");
			unlink(path);
		} else if (!strcmp(word, "root")) {
			report(open("/proc/sys/kernel/core_pattern", O_WRONLY) >= 0, "sysctl");
			report(open("/proc/sysrq-trigger", O_WRONLY) >= 0, "sysrq");
			report(open("/proc/kcore", O_RDONLY) >= 0, "kcore");
			report(open("/dev/mem", O_RDONLY) >= 0, "memory device");
		} else if (!strcmp(word, "kernel")) {
			kernel();
		} else if (!strcmp(word, "keys")) {
			report(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", KEY_NAME, 0) > 0,
			       "keyring");
		} else if (!strcmp(word, "calls")) {
			calls();
		} else if (!strcmp(word, "archs")) {
			archs();
		} else if (!strcmp(word, "handle")) {
			by_handle(next);
		} else if (!strcmp(word, "fork")) {
			forks(atol(next));
		} else if (!strcmp(word, "memory")) {
			memory(atol(next));
		} else if (!strcmp(word, "handed") || !strcmp(word, "fetch")) {
			handed(next, *word == 'h');
		} else if (!strcmp(word, "euid")) {
			printf("user %u by its file\n", geteuid());
		}
	}
	puts("done");
	return 0;
}
