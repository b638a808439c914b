// What a process and the kernel have used, as /proc tells it.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  double cpu_us;
  long rss_kb, hwm_kb, threads;
  uint64_t voluntary, involuntary;  // context switches
} usage;

// The kernel's memory that belongs to no process, in kB.
typedef struct {
  long slab, stacks, page_tables;
} kernel_memory;

static long field_of(const char *path, const char *key) {
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  char line[256];
  long value = 0;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, key, strlen(key))) continue;
    value = atol(line + strlen(key));
    break;
  }
  fclose(file);
  return value;
}

// The clock counts nanoseconds, also of threads that have ended.
static double cpu_microseconds(int pid) {
  clockid_t clock;
  struct timespec used;
  if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &used)) {
    fprintf(stderr, "load: the server, process %d, has ended\n", pid);
    exit(3);
  }
  return (double)used.tv_sec * 1e6 + (double)used.tv_nsec / 1e3;
}

static usage usage_of(int pid) {
  usage used = {0};
  if (pid <= 0) return used;
  used.cpu_us = cpu_microseconds(pid);
  char path[64], task[400];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  used.rss_kb = field_of(path, "VmRSS:");
  used.hwm_kb = field_of(path, "VmHWM:");
  used.threads = field_of(path, "Threads:");
  // With a thread for each connection the look would take longer than the measurement.
  if (used.threads >= 200) return used;
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *tasks = opendir(path);
  struct dirent *entry;
  while (tasks && (entry = readdir(tasks))) {
    if (entry->d_name[0] == '.') continue;
    snprintf(task, sizeof task, "%s/%s/status", path, entry->d_name);
    used.voluntary += (uint64_t)field_of(task, "voluntary_ctxt_switches:");
    used.involuntary += (uint64_t)field_of(task, "nonvoluntary_ctxt_switches:");
  }
  if (tasks) closedir(tasks);
  return used;
}

static kernel_memory kernel_memory_now(void) {
  const char *path = "/proc/meminfo";
  kernel_memory memory = {
      .slab = field_of(path, "Slab:"),
      .stacks = field_of(path, "KernelStack:"),
      .page_tables = field_of(path, "PageTables:"),
  };
  return memory;
}
