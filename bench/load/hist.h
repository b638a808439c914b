// A histogram of latencies in nanoseconds: 128 steps for each power of two, so a value is at most
// 0.8 % too high.
#include <stdint.h>

enum { STEPS = 128, BUCKETS = 64 * STEPS };

typedef struct {
  uint64_t count, max;
  double sum;
  uint32_t buckets[BUCKETS];
} histogram;

static int bucket_of(uint64_t value) {
  if (value < STEPS) return (int)value;
  int exponent = 63 - __builtin_clzll(value);
  return (exponent - 6) * STEPS + (int)((value >> (exponent - 7)) - STEPS);
}

static uint64_t bucket_top(int bucket) {
  if (bucket < STEPS) return (uint64_t)bucket;
  int exponent = bucket / STEPS + 6;
  return ((uint64_t)(bucket % STEPS + STEPS + 1) << (exponent - 7)) - 1;
}

static void record(histogram *h, uint64_t value) {
  h->count++;
  h->sum += (double)value;
  if (value > h->max) h->max = value;
  h->buckets[bucket_of(value)]++;
}

static double microseconds_at(const histogram *h, double percentile) {
  if (!h->count) return 0;
  uint64_t wanted = (uint64_t)(percentile / 100.0 * (double)h->count + 0.5), seen = 0;
  if (wanted < 1) wanted = 1;
  for (int i = 0; i < BUCKETS; i++) {
    seen += h->buckets[i];
    if (seen < wanted) continue;
    uint64_t top = bucket_top(i);
    return (double)(top < h->max ? top : h->max) / 1000.0;
  }
  return (double)h->max / 1000.0;
}

static double mean_microseconds(const histogram *h) {
  return h->count ? h->sum / (double)h->count / 1000.0 : 0;
}
