/* A wall clock that the test sets: what CMDANA_TEST_CLOCK names holds the nanoseconds that it is wrong by.
 *
 * To be preloaded. Packets that libpcap hands over bear the time of the same clock, as the kernel's would.
 * Clocks that only go on (CLOCK_MONOTONIC) are left alone, as they are when somebody sets the time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct pcap;
struct header {
    struct timeval ts;
    uint32_t caplen, len;
};

static const volatile int64_t *wrong_by;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("CMDANA_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof *wrong_by, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        wrong_by = page;
    close(file);
}

static int64_t wrong(void) { return wrong_by ? *wrong_by : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t t = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + wrong();
        now->tv_sec = t / 1000000000;
        now->tv_nsec = t % 1000000000;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    now->tv_sec = t.tv_sec;
    now->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out)
        *out = t.tv_sec;
    return t.tv_sec;
}

int pcap_next_ex(struct pcap *handle, struct header **header, const unsigned char **data) {
    static int (*next)(struct pcap *, struct header **, const unsigned char **);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "pcap_next_ex");
    int got = next(handle, header, data);
    if (got == 1) {
        int64_t t = (*header)->ts.tv_sec * INT64_C(1000000) + (*header)->ts.tv_usec + wrong() / 1000;
        (*header)->ts.tv_sec = t / 1000000;
        (*header)->ts.tv_usec = t % 1000000;
    }
    return got;
}
