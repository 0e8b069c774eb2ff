/* Fake engines of a load test: a port each, one clock, a token per tick and stream.
 *
 *   engine PORT,PORT,... CLOCK_US
 *
 * The first token of a stream goes out at once, the others at the ticks of a clock that all
 * streams share; a clock of 0 gives each stream its next token as fast as sockets take them.
 * GET /clock/CLOCK_US changes it. Everything is one thread and one epoll set.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_PORTS = 64, MAX_EVENTS = 512, FIRST_INPUT = 4096, OUTPUT = 2048 };
enum kind { LISTENER, CLOCK, CONNECTION };

struct connection {
    enum kind kind;
    int fd, engine;
    char *in;
    size_t have, room;
    bool streaming, whole, usage, dead;
    long sent, total, number;
    char out[OUTPUT];
    size_t out_at, out_end;
    struct connection *before, *after; /* among those that stream */
};

struct listener {
    enum kind kind;
    int fd, engine;
};

static int epoll_fd;
static struct listener listeners[MAX_PORTS];
static struct listener timer = {CLOCK, -1, 0};
static struct connection *streams;
static long clock_us, requests, running[MAX_PORTS], generated[MAX_PORTS], prompts[MAX_PORTS];
static long steps, given, streaming; /* tokens since the last step, and streams to have one */
static struct connection *dead;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void set_clock(long us) {
    struct itimerspec spec = {0};
    clock_us = us;
    spec.it_value.tv_sec = spec.it_interval.tv_sec = us / 1000000;
    spec.it_value.tv_nsec = spec.it_interval.tv_nsec = us % 1000000 * 1000;
    if (timerfd_settime(timer.fd, 0, &spec, NULL) < 0) fail("timerfd_settime");
}

static void watch(void *who, int fd, int op, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = who};
    if (epoll_ctl(epoll_fd, op, fd, &event) < 0) fail("epoll_ctl");
}

static void stop_streaming(struct connection *c) {
    if (!c->streaming) return;
    c->streaming = false;
    streaming--;
    running[c->engine]--;
    if (c->before) c->before->after = c->after;
    else streams = c->after;
    if (c->after) c->after->before = c->before;
    c->before = c->after = NULL;
}

static void drop(struct connection *c) {
    if (c->dead) return;
    stop_streaming(c);
    close(c->fd);
    c->dead = true;
    /* Freed after the turn: events of it may still be at hand. */
    c->after = dead;
    dead = c;
}

static void bury(void) {
    while (dead) {
        struct connection *next = dead->after;
        free(dead->in);
        free(dead);
        dead = next;
    }
}

static void flush(struct connection *c) {
    while (c->out_at < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, c->fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
            else drop(c);
            return;
        }
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_end = 0;
}

static void say(struct connection *c, const char *text, size_t length) {
    if (c->out_end + length > OUTPUT) {
        drop(c);
        return;
    }
    memcpy(c->out + c->out_end, text, length);
    c->out_end += length;
}

static void answer(struct connection *c, const char *type, const char *body, size_t length) {
    char head[256];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type,
                     length);
    say(c, head, (size_t)n);
    say(c, body, length);
    if (!c->dead) flush(c);
}

static void tell_metrics(struct connection *c) {
    char body[1600];
    int g = c->engine;
    int n = snprintf(
        body, sizeof body,
        "vllm:num_requests_running{engine=\"0\",model_name=\"fake\"} %ld\n"
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"fake\"} 0\n"
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"fake\"} 0.1\n"
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"fake\"} %ld\n"
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"fake\"} %ld\n"
        "vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"fake\"} %ld\n"
        "vllm:iteration_tokens_total_count{engine=\"0\",model_name=\"fake\"} %ld\n"
        /* First tokens go out at once: prompts take no time. */
        "vllm:request_prefill_time_seconds_sum{engine=\"0\",model_name=\"fake\"} 0\n"
        "vllm:request_prefill_time_seconds_count{engine=\"0\",model_name=\"fake\"} %ld\n",
        running[g], prompts[g], generated[g], prompts[g] + generated[g], steps, prompts[g] / 100);
    answer(c, "text/plain; version=0.0.4", body, (size_t)n);
}

static void end_whole(struct connection *c) {
    char body[400];
    int n = snprintf(body, sizeof body,
                     "{\"id\":\"cmpl-%08lx\",\"object\":\"text_completion\",\"created\":1700000000,"
                     "\"model\":\"fake\",\"choices\":[{\"index\":0,\"text\":\" 0\",\"logprobs\":null,"
                     "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":100,"
                     "\"total_tokens\":%ld,\"completion_tokens\":%ld}}",
                     c->number, 100 + c->total, c->total);
    stop_streaming(c);
    answer(c, "application/json", body, (size_t)n);
}

static size_t chunk(char *to, size_t room, const char *data, int length) {
    return (size_t)snprintf(to, room, "%x\r\n%.*s\r\n", (unsigned)length, length, data);
}

/* The next token of a stream, with what ends it after the last one. */
static void token(struct connection *c) {
    char event[400], framed[1400];
    bool last = c->sent + 1 == c->total;
    generated[c->engine]++;
    given++;
    if (c->whole) {
        if (++c->sent == c->total) end_whole(c);
        return;
    }
    int n = snprintf(event, sizeof event,
                     "data: {\"id\":\"cmpl-%08lx\",\"object\":\"text_completion\","
                     "\"created\":1700000000,\"model\":\"fake\",\"choices\":[{\"index\":0,"
                     "\"text\":\" %ld\",\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                     c->number, c->sent, last ? "\"length\"" : "null");
    size_t end = chunk(framed, sizeof framed, event, n);
    c->sent++;
    if (last) {
        n = 0;
        if (c->usage)
            n = snprintf(event, sizeof event,
                         "data: {\"id\":\"cmpl-%08lx\",\"object\":\"text_completion\","
                         "\"created\":1700000000,\"model\":\"fake\",\"choices\":[],\"usage\":{"
                         "\"prompt_tokens\":100,\"total_tokens\":%ld,\"completion_tokens\":%ld}}"
                         "\n\n",
                         c->number, 100 + c->total, c->total);
        n += snprintf(event + n, sizeof event - (size_t)n, "data: [DONE]\n\n");
        end += chunk(framed + end, sizeof framed - end, event, n);
        memcpy(framed + end, "0\r\n\r\n", 5);
        end += 5;
        stop_streaming(c);
    }
    say(c, framed, end);
    if (!c->dead) flush(c);
}

static void begin(struct connection *c, const char *body) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    const char *most = strstr(body, "\"max_tokens\":");
    const char *stream = strstr(body, "\"stream\":");
    c->total = most ? atol(most + 13) : 16;
    if (c->total < 1) c->total = 1;
    c->whole = !stream || !strstr(stream, "true");
    c->usage = strstr(body, "\"include_usage\":true") != NULL;
    c->sent = 0;
    c->number = ++requests;
    c->streaming = true;
    running[c->engine]++;
    streaming++;
    prompts[c->engine] += 100;
    c->before = NULL;
    c->after = streams;
    if (streams) streams->before = c;
    streams = c;
    if (!c->whole) say(c, head, sizeof head - 1);
    token(c);
}

static void handle(struct connection *c, const char *head, const char *body) {
    static const char models[] =
        "{\"object\":\"list\",\"data\":[{\"id\":\"fake\",\"object\":\"model\",\"created\":1,"
        "\"owned_by\":\"vllm\",\"max_model_len\":131072}]}";
    static const char info[] = "{\"model_path\":\"fake\",\"model_id\":\"fake\",\"version\":\"0\"}";
    if (!strncmp(head, "POST /v1/", 9)) {
        begin(c, body);
    } else if (!strncmp(head, "GET /metrics", 12)) {
        tell_metrics(c);
    } else if (!strncmp(head, "GET /v1/models", 14)) {
        answer(c, "application/json", models, sizeof models - 1);
    } else if (!strncmp(head, "GET /clock/", 11)) {
        set_clock(atol(head + 11));
        answer(c, "text/plain", "ok", 2);
    } else {
        answer(c, "application/json", info, sizeof info - 1);
    }
}

/* Where a request ends, NULL if it is not all there; the body is ended with a NUL by the caller. */
static char *request_end(struct connection *c, char **body) {
    char *blank = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!blank) return NULL;
    *blank = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    char *coding = strcasestr(c->in, "\r\ntransfer-encoding:");
    *blank = '\r';
    *body = blank + 4;
    size_t left = c->have - (size_t)(*body - c->in);
    if (coding) {
        char *last = memmem(*body, left, "0\r\n\r\n", 5);
        return last ? last + 5 : NULL;
    }
    size_t needed = length ? strtoul(length + 17, NULL, 10) : 0;
    return left >= needed ? *body + needed : NULL;
}

static void serve(struct connection *c) {
    char *body, *end;
    while (!c->dead && !c->streaming && (end = request_end(c, &body))) {
        char kept = *end;
        *end = 0;
        handle(c, c->in, body);
        if (c->dead) return;
        *end = kept;
        c->have -= (size_t)(end - c->in);
        memmove(c->in, end, c->have);
    }
}

static void readable(struct connection *c) {
    for (;;) {
        if (c->have + 1 >= c->room) {
            c->room *= 2;
            if (!(c->in = realloc(c->in, c->room))) fail("realloc");
        }
        size_t room = c->room - c->have - 1;
        ssize_t n = recv(c->fd, c->in + c->have, room, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            drop(c);
            return;
        }
        if (n > 0) c->have += (size_t)n;
        if (n < (ssize_t)room) break;
    }
    serve(c);
}

static void take(struct listener *l) {
    int fd, one = 1;
    while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c || !(c->in = malloc(FIRST_INPUT))) fail("malloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->kind = CONNECTION;
        c->fd = fd;
        c->engine = l->engine;
        c->room = FIRST_INPUT;
        watch(c, fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
    }
}

static void tick(void) {
    struct connection *next;
    /* Without a clock streams have their tokens one by one: a step is as many as there are streams. */
    if (streams && (clock_us || given >= streaming)) {
        steps++;
        given = 0;
    }
    for (struct connection *c = streams; c; c = next) {
        next = c->after;
        if (c->out_end == 0) token(c);
        if (!c->dead && !c->streaming) serve(c);
    }
}

static void rouse(void *who, unsigned events) {
    struct connection *c = who;
    if (c->kind == LISTENER) {
        take(who);
    } else if (c->kind == CLOCK) {
        unsigned long expired;
        if (read(timer.fd, &expired, sizeof expired) > 0) tick();
    } else if (!c->dead) {
        if (events & EPOLLOUT) {
            watch(c, c->fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
            flush(c);
        }
        if (!c->dead && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) readable(c);
    }
}

static void listen_at(int engine, int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0) fail("bind");
    if (listen(fd, 4096) < 0) fail("listen");
    listeners[engine] = (struct listener){LISTENER, fd, engine};
    watch(&listeners[engine], fd, EPOLL_CTL_ADD, EPOLLIN);
}

int main(int argc, char **argv) {
    struct epoll_event events[MAX_EVENTS];
    int engines = 0;
    if (argc != 3) {
        fprintf(stderr, "usage: engine PORT,PORT,... CLOCK_US\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(&timer, timer.fd, EPOLL_CTL_ADD, EPOLLIN);
    for (char *port = strtok(argv[1], ","); port && engines < MAX_PORTS; port = strtok(NULL, ","))
        listen_at(engines++, atoi(port));
    set_clock(atol(argv[2]));
    puts("ready");
    fflush(stdout);
    for (;;) {
        int wait = clock_us == 0 && streams ? 0 : -1;
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, wait);
        for (int i = 0; i < n; i++) rouse(events[i].data.ptr, events[i].events);
        if (clock_us == 0) tick();
        bury();
    }
}
