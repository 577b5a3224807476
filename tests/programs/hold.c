/* hold lease FILE...: takes a lease of each file, as its owner may, and heeds nobody whom that is in the way of.
 * hold write FILE: writes to the file from a memory that never answers, and so holds up whoever writes to it.
 * hold serve FOLDER: mounts a FUSE there, with a file whose memory never answers, also when who reads it is killed.
 * hold through MEMORY FILE: writes to the file from the memory of that one.
 * All print a line when they hold, and end by a signal. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096

static int failed(const char *what)
{
	perror(what);
	return 1;
}

static int lease(char **files)
{
	/* What the kernel tells the holder would end it. */
	signal(SIGIO, SIG_IGN);
	for (; *files; files++) {
		int fd = open(*files, O_RDONLY);
		if (fd < 0 || fcntl(fd, F_SETLEASE, F_WRLCK) != 0)
			return failed(*files);
	}
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}

static int stand(const char *file)
{
	struct uffdio_api api = { .api = UFFD_API };
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	int fd = open(file, O_WRONLY);
	char *room = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register all = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	if (faults < 0 || room == MAP_FAILED || ioctl(faults, UFFDIO_API, &api) != 0)
		return failed("userfaultfd");
	all.range.start = (uintptr_t)room;
	all.range.len = PAGE;
	if (ioctl(faults, UFFDIO_REGISTER, &all) != 0)
		return failed("userfaultfd");
	if (fd < 0)
		return failed(file);
	puts("held");
	fflush(stdout);
	if (write(fd, room, 16) < 0)
		return failed(file);
	return 0;
}

static int answer(int dev, uint64_t request, int error, const void *body, size_t length)
{
	char room[PAGE];
	struct fuse_out_header head = { .len = sizeof head + length, .error = error, .unique = request };

	memcpy(room, &head, sizeof head);
	if (length)
		memcpy(room + sizeof head, body, length);
	return write(dev, room, head.len) < 0 ? failed("answer") : 0;
}

static int serve(const char *folder)
{
	static char room[1 << 18];
	char options[80];
	struct fuse_attr file = { .ino = 2, .size = 2 * PAGE, .mode = S_IFREG | 0666, .nlink = 1, .blksize = PAGE };
	struct fuse_attr top = { .ino = 1, .mode = S_IFDIR | 0777, .nlink = 2, .blksize = PAGE };
	int dev = open("/dev/fuse", O_RDWR);

	if (dev < 0)
		return failed("/dev/fuse");
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev);
	if (mount("hold", folder, "fuse", MS_NOSUID | MS_NODEV, options) != 0)
		return failed(folder);
	puts("held");
	fflush(stdout);
	while (read(dev, room, sizeof room) > 0) {
		struct fuse_in_header *in = (void *)room;
		struct fuse_init_out init = { .major = 7, .minor = 31, .max_write = PAGE };
		struct fuse_entry_out entry = { .nodeid = 2, .attr_valid = 1000, .entry_valid = 1000, .attr = file };
		struct fuse_attr_out attr = { .attr_valid = 1000, .attr = in->nodeid == 1 ? top : file };
		/* Else the next one to open it waits for the page that nobody gets. */
		struct fuse_open_out opened = { .open_flags = FOPEN_KEEP_CACHE };

		switch (in->opcode) {
		case FUSE_INIT:
			answer(dev, in->unique, 0, &init, sizeof init);
			break;
		case FUSE_LOOKUP:
			answer(dev, in->unique, 0, &entry, sizeof entry);
			break;
		case FUSE_GETATTR:
			answer(dev, in->unique, 0, &attr, sizeof attr);
			break;
		case FUSE_OPEN:
			answer(dev, in->unique, 0, &opened, sizeof opened);
			break;
		case FUSE_READ:
		case FUSE_INTERRUPT:
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
			break;
		case FUSE_FLUSH:
		case FUSE_RELEASE:
			answer(dev, in->unique, 0, NULL, 0);
			break;
		default:
			answer(dev, in->unique, -38, NULL, 0);
		}
	}
	return failed("read");
}

static int through(const char *memory, const char *file)
{
	int from = open(memory, O_RDWR);
	int fd = open(file, O_WRONLY);
	char *room = from < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, from, 0);

	if (room == MAP_FAILED)
		return failed(memory);
	if (fd < 0)
		return failed(file);
	puts("held");
	fflush(stdout);
	return write(fd, room, 16) < 0 ? failed(file) : 0;
}

int main(int count, char **words)
{
	if (count >= 3 && strcmp(words[1], "lease") == 0)
		return lease(words + 2);
	if (count == 3 && strcmp(words[1], "write") == 0)
		return stand(words[2]);
	if (count == 3 && strcmp(words[1], "serve") == 0)
		return serve(words[2]);
	if (count == 4 && strcmp(words[1], "through") == 0)
		return through(words[2], words[3]);
	return 2;
}
