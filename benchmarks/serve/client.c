/* Load client: so many streams at once, each beginning the next request when its last one ends.
 *
 *   client PORT,PORT,... STREAMS TOKENS PROMPT_BYTES WARM_S SECONDS SPREAD_S
 *
 * Streams begin spread over SPREAD_S. Prints "begin" when WARM_S are over, "end" after SECONDS
 * more, lets what runs run out, and prints one JSON object. Tokens are counted by what they say:
 * an answer that has other numbers than 0 to TOKENS - 1 in order is torn, one that ends before
 * its last event is lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PORTS = 64, MAX_EVENTS = 512, INPUT = 65536 };
enum step { HEAD, SIZE, DATA, DATA_END, LENGTH, TRAILER };

struct stream {
    int fd, port;
    enum step step;
    char in[INPUT];
    size_t have, left;
    char line[1024]; /* of events, which chunks may cut anywhere */
    size_t line_have;
    long tokens;
    int status;
    bool busy, torn, done, reopened;
    double begun, first, starts;
};

struct samples {
    double *of;
    size_t count, room;
};

static int epoll_fd, ports[MAX_PORTS], port_count;
static char *request;
static size_t request_length;
static long most, streams, busy_count;
static double warm_end, window_end;
static bool ending;
static struct samples ttft, whole, gap;
static long statuses[1000]; /* Of answers that are no 200. */
static long finished, tokens, torn, lost, refused, broken, begun, all_finished, all_begun;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void keep(struct samples *s, double value) {
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 1024;
        if (!(s->of = realloc(s->of, s->room * sizeof *s->of))) fail("realloc");
    }
    s->of[s->count++] = value;
}

static bool inside(double at) { return at >= warm_end && at < window_end; }

static void make_request(long prompt_bytes, bool usage) {
    size_t room = (size_t)prompt_bytes + 512;
    char *body = malloc(room), *prompt = malloc((size_t)prompt_bytes + 1);
    if (!body || !prompt || !(request = malloc(room + 512))) fail("malloc");
    for (long i = 0; i < prompt_bytes; i++) prompt[i] = i % 5 ? 'a' + (char)(i % 26) : ' ';
    prompt[prompt_bytes] = 0;
    int n = snprintf(body, room,
                     "{\"model\":\"fake\",\"prompt\":\"%s\",\"max_tokens\":%ld,\"ignore_eos\":true,"
                     "\"stream\":true,\"stream_options\":{\"include_usage\":%s}}",
                     prompt, most, usage ? "true" : "false");
    request_length = (size_t)snprintf(
        request, room + 512,
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n%s",
        n, body);
    free(body);
    free(prompt);
}

static void open_connection(struct stream *s) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    int one = 1;
    at.sin_port = htons((unsigned short)ports[s->port]);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (s->fd < 0) fail("socket");
    /* Blocking, on the same machine: a full queue of connections makes this wait. */
    if (connect(s->fd, (struct sockaddr *)&at, sizeof at) < 0) fail("connect");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->fd, &event) < 0) fail("epoll_ctl");
}

static void start(struct stream *s) {
    bool fresh = s->fd < 0;
    if (fresh) open_connection(s);
    s->step = HEAD;
    s->have = s->line_have = 0;
    s->tokens = 0;
    s->torn = s->done = false;
    s->first = 0;
    s->status = 0;
    if (!s->busy) busy_count++;
    s->busy = true;
    s->begun = now();
    all_begun++;
    if (inside(s->begun)) begun++;
    size_t at = 0;
    while (at < request_length) {
        ssize_t n = send(s->fd, request + at, request_length - at, MSG_NOSIGNAL);
        if (n < 0) break; /* Noticed when reading. */
        at += (size_t)n;
    }
}

static void next(struct stream *s) {
    if (ending) {
        s->busy = false;
        busy_count--;
    } else {
        start(s);
    }
}

static void hang_up(struct stream *s) {
    close(s->fd);
    s->fd = -1;
}

static void finish(struct stream *s) {
    double at = now();
    bool good = s->status == 200 && s->done && !s->torn && s->tokens == most;
    if (s->status != 200) refused++, statuses[s->status % 1000]++;
    else if (s->torn || (s->done && s->tokens != most)) torn++;
    else if (!s->done) lost++;
    if (good) {
        all_finished++;
        if (inside(at)) {
            finished++;
            keep(&whole, at - s->begun);
            if (most > 1) keep(&gap, (at - s->first) / (double)(most - 1));
        }
    }
    next(s);
}

static void fell(struct stream *s) {
    bool silent = s->have == 0 && s->step == HEAD;
    hang_up(s);
    if (!s->busy) return;
    /* A kept connection that was closed as the request went out: every client tries again. */
    if (silent && !s->reopened) {
        s->reopened = true;
        all_begun--;
        start(s);
        return;
    }
    if (s->status == 0 || s->status == 200) lost++;
    else refused++, statuses[s->status % 1000]++;
    next(s);
}

static void event(struct stream *s, const char *line) {
    const char *text;
    if (strncmp(line, "data: ", 6) != 0) return;
    if (!strcmp(line + 6, "[DONE]")) {
        s->done = true;
    } else if ((text = strstr(line, "\"text\":\" "))) {
        double at = now();
        if (s->tokens == 0) {
            s->first = at;
            if (inside(s->begun)) keep(&ttft, at - s->begun);
        }
        if (atol(text + 9) != s->tokens) s->torn = true;
        s->tokens++;
        if (inside(at)) tokens++;
    }
}

static void payload(struct stream *s, const char *data, size_t length) {
    while (length > 0) {
        const char *newline = memchr(data, '\n', length);
        size_t part = newline ? (size_t)(newline - data) : length;
        if (s->line_have + part >= sizeof s->line) {
            s->torn = true;
            s->line_have = 0;
        } else {
            memcpy(s->line + s->line_have, data, part);
            s->line_have += part;
        }
        if (!newline) return;
        s->line[s->line_have] = 0;
        if (s->line_have > 0) event(s, s->line);
        s->line_have = 0;
        data += part + 1;
        length -= part + 1;
    }
}

/* Read a head; return how many bytes it has, 0 if it is not all there. */
static size_t head(struct stream *s, char *at, size_t length) {
    char *blank = memmem(at, length, "\r\n\r\n", 4);
    if (!blank) return 0;
    *blank = 0;
    s->status = atoi(at + 9);
    char *plain = strcasestr(at, "\r\ncontent-length:");
    s->step = plain ? LENGTH : SIZE;
    s->left = plain ? strtoul(plain + 17, NULL, 10) : 0;
    return (size_t)(blank + 4 - at);
}

/* Take what can be taken of the input; return how many bytes, 0 if more must come. */
static size_t digest(struct stream *s, char *at, size_t length) {
    if (s->step == HEAD) return head(s, at, length);
    if (s->step == DATA || s->step == LENGTH) {
        size_t part = length < s->left ? length : s->left;
        payload(s, at, part);
        s->left -= part;
        if (s->left == 0 && s->step == DATA) s->step = DATA_END;
        return part;
    }
    char *newline = memmem(at, length, "\r\n", 2);
    if (!newline) return 0;
    size_t part = (size_t)(newline + 2 - at);
    if (s->step == DATA_END) {
        s->step = SIZE;
    } else if (s->step == SIZE) {
        s->left = strtoul(at, NULL, 16);
        s->step = s->left ? DATA : TRAILER;
    } else if (part == 2) {
        s->step = HEAD;
        s->left = 0;
    }
    return part;
}

static bool over(const struct stream *s, enum step before) {
    return (s->step == LENGTH && s->left == 0) || (before == TRAILER && s->step == HEAD);
}

static void readable(struct stream *s) {
    ssize_t n = recv(s->fd, s->in + s->have, INPUT - s->have, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        fell(s);
        return;
    }
    s->have += (size_t)n;
    s->reopened = false;
    size_t at = 0, part;
    do {
        enum step before = s->step;
        part = digest(s, s->in + at, s->have - at);
        at += part;
        if (part > 0 && over(s, before)) {
            /* Nothing follows that was not asked for. */
            if (at != s->have) broken++;
            s->have = 0;
            finish(s);
            return;
        }
    } while (part > 0);
    s->have -= at;
    memmove(s->in, s->in + at, s->have);
    if (s->have == INPUT) {
        broken++;
        fell(s);
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(struct samples *s, double share) {
    if (s->count == 0) return -1;
    qsort(s->of, s->count, sizeof *s->of, by_size);
    return s->of[(size_t)(share * (double)(s->count - 1) + 0.5)] * 1e3;
}

static void report(double seconds) {
    printf("{\"statuses\":{");
    const char *comma = "";
    for (int i = 0; i < 1000; i++) {
        if (statuses[i]) printf("%s\"%d\":%ld", comma, i, statuses[i]), comma = ",";
    }
    printf("},\"seconds\":%.3f,\"finished\":%ld,\"begun\":%ld,\"tokens\":%ld,\"all_begun\":%ld,"
           "\"all_finished\":%ld,\"torn\":%ld,\"lost\":%ld,\"refused\":%ld,\"broken\":%ld,"
           "\"unended\":%ld,\"ttft_p50_ms\":%.4f,\"ttft_p95_ms\":%.4f,\"tpot_p50_ms\":%.4f,"
           "\"tpot_p95_ms\":%.4f,\"e2e_p50_ms\":%.3f}\n",
           seconds, finished, begun, tokens, all_begun, all_finished, torn, lost, refused, broken,
           busy_count, quantile(&ttft, 0.5), quantile(&ttft, 0.95), quantile(&gap, 0.5),
           quantile(&gap, 0.95), quantile(&whole, 0.5));
    fflush(stdout);
}

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

int main(int argc, char **argv) {
    struct epoll_event events[MAX_EVENTS];
    if (argc != 9) {
        fprintf(stderr, "usage: client PORT,.. STREAMS TOKENS PROMPT_BYTES WARM_S SECONDS SPREAD_S "
                        "USAGE\n");
        return 2;
    }
    for (char *port = strtok(argv[1], ","); port && port_count < MAX_PORTS; port = strtok(NULL, ","))
        ports[port_count++] = atoi(port);
    streams = atol(argv[2]);
    most = atol(argv[3]);
    make_request(atol(argv[4]), atol(argv[8]));
    double seconds = atof(argv[6]), spread = atof(argv[7]), zero = now();
    warm_end = zero + atof(argv[5]);
    window_end = warm_end + seconds;
    epoll_fd = epoll_create1(0);
    struct stream *all = calloc((size_t)streams, sizeof *all);
    if (!all) fail("calloc");
    for (long i = 0; i < streams; i++) {
        all[i].fd = -1;
        all[i].port = (int)(i % port_count);
        all[i].starts = zero + spread * (double)i / (double)streams;
    }
    long opened = 0;
    bool warm = false;
    double patience = 0;
    while (!ending || busy_count > 0) {
        double at = now();
        while (opened < streams && all[opened].starts <= at && !ending) start(&all[opened++]);
        if (!warm && at >= warm_end) {
            warm = true;
            say("begin");
        }
        if (!ending && at >= window_end) {
            ending = true;
            patience = at + 60;
            say("end");
        }
        if (ending && at > patience) break;
        double until = opened < streams && !ending ? all[opened].starts
                       : !warm                     ? warm_end
                       : !ending                   ? window_end
                                                   : at + 0.1;
        int wait = until > at ? (int)((until - at) * 1e3) + (opened == streams || ending) : 0;
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, wait > 100 ? 100 : wait);
        for (int i = 0; i < n; i++) readable(events[i].data.ptr);
    }
    report(seconds);
    return 0;
}
