/* hold lease FILE...: takes a lease of each file, as its owner may, and heeds nobody whom that is in the way of.
 * hold write FILE: writes to the file from a memory that never answers, and so holds up whoever writes to it.
 * Both print a line when they hold, and end by a signal. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
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

int main(int count, char **words)
{
	if (count >= 3 && strcmp(words[1], "lease") == 0)
		return lease(words + 2);
	if (count == 3 && strcmp(words[1], "write") == 0)
		return stand(words[2]);
	return 2;
}
