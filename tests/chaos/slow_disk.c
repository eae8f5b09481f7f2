/* To be preloaded: as long as the file HELD_DISK exists, nothing reaches the disk, or not before HELD_DISK_MS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_for_the_disk(void) {
    const struct timespec step = {0, 5 * 1000 * 1000};
    const char *file = getenv("HELD_DISK"), *most = getenv("HELD_DISK_MS");
    int steps = most ? atoi(most) / 5 : -1;
    while (file && steps-- && access(file, F_OK) == 0)
        nanosleep(&step, NULL);
}

int fsync(int fd) {
    wait_for_the_disk();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    wait_for_the_disk();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
