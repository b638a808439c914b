// micro: goroutines, channels, locks and timers, without sockets. It prints lines of a name, a
// value and a unit. go-micro --bench NAME[,NAME] --workers N [--n COUNT]
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

var workers int

func report(name string, v float64, unit string) {
	fmt.Printf("%s_w%d %.3f %s\n", name, workers, v, unit)
}

func perOp(name string, n int, f func()) {
	t := time.Now()
	f()
	report(name, float64(time.Since(t).Nanoseconds())/float64(n), "ns")
}

func rssKB() (kb float64) {
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmRSS:") {
			fmt.Sscanf(strings.TrimSpace(l[6:]), "%f", &kb)
		}
	}
	return
}

func cpuSeconds() float64 {
	var r syscall.Rusage
	syscall.Getrusage(0, &r)
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

func spawn(n int) {
	for i := 0; i < n/1000; i++ {
		var wg sync.WaitGroup
		wg.Add(1000)
		for j := 0; j < 1000; j++ {
			go wg.Done()
		}
		wg.Wait()
	}
}

func yield(n int) {
	var wg sync.WaitGroup
	for t := 0; t < 2; t++ {
		wg.Add(1)
		go func() {
			for i := 0; i < n/2; i++ {
				runtime.Gosched()
			}
			wg.Done()
		}()
	}
	wg.Wait()
}

func pingpong(n int) {
	a, b := make(chan int), make(chan int)
	go func() {
		for v := range a {
			b <- v
		}
		close(b)
	}()
	for i := 0; i < n/2; i++ {
		a <- i
		<-b
	}
	close(a)
}

// channel sends n values from so many goroutines to the caller and so many others, less one.
func channel(n, ends, capacity int) {
	c := make(chan int, capacity)
	var senders, receivers sync.WaitGroup
	for range ends {
		senders.Go(func() {
			for i := 0; i < n/ends; i++ {
				c <- i
			}
		})
	}
	for range ends - 1 {
		receivers.Go(func() {
			for range c {
			}
		})
	}
	go func() {
		senders.Wait()
		close(c)
	}()
	for range c {
	}
	receivers.Wait()
}

func readyChannel(n int) {
	c := make(chan int, 1)
	for i := 0; i < n; i++ {
		c <- i
		<-c
	}
}

func selects(n, capacity int) {
	a, b := make(chan int, capacity), make(chan int, capacity)
	for _, c := range []chan int{a, b} {
		go func() {
			for i := 0; i < n/2; i++ {
				c <- i
			}
		}()
	}
	for i := 0; i < n/2*2; i++ {
		select {
		case <-a:
		case <-b:
		}
	}
}

func selectDefault(n int) {
	a, b := make(chan int), make(chan int)
	for i := 0; i < n; i++ {
		select {
		case <-a:
		case <-b:
		default:
		}
	}
}

func mutexAlone(n int) {
	var mu sync.Mutex
	x := 0
	for i := 0; i < n; i++ {
		mu.Lock()
		x++
		mu.Unlock()
	}
}

func rwmutexAlone(n int) {
	var mu sync.RWMutex
	for i := 0; i < n; i++ {
		mu.RLock()
		mu.RUnlock()
	}
}

// waitGroup spawns as the benchmark spawn, which waits for a group as well: Go has no join.
func waitGroup(n int) {
	for i := 0; i < n/1000; i++ {
		var wg sync.WaitGroup
		for j := 0; j < 1000; j++ {
			wg.Go(func() {})
		}
		wg.Wait()
	}
}

func parked(n int) {
	before := rssKB()
	c := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(n)
	for i := 0; i < n; i++ {
		go func() { <-c; wg.Done() }()
	}
	time.Sleep(time.Second)
	report("parked_n", float64(n), "tasks")
	report("parked_rss", (rssKB()-before)*1024/float64(n), "B/task")
	close(c)
	wg.Wait()
}

func timers(n int) {
	perOp("timer_create_stop", n, func() {
		for i := 0; i < n; i++ {
			time.NewTimer(time.Second * 30).Stop()
		}
	})
	r := rand.New(rand.NewSource(1))
	v := make([]*time.Timer, n)
	perOp("timer_bulk_create", n, func() {
		for i := range v {
			v[i] = time.AfterFunc(time.Second*10+time.Duration(r.Int63n(int64(50*time.Second))), func() {})
		}
	})
	perOp("timer_bulk_stop", n, func() {
		for _, t := range v {
			t.Stop()
		}
	})
}

func sleepers(n int) {
	late := make([]int64, n)
	c0, t0 := cpuSeconds(), time.Now()
	var wg sync.WaitGroup
	wg.Add(n)
	r := rand.New(rand.NewSource(1))
	for i := 0; i < n; i++ {
		d := time.Duration(r.Int63n(int64(time.Second)))
		go func() {
			s := time.Now()
			time.Sleep(d)
			late[i] = (time.Since(s) - d).Microseconds()
			wg.Done()
		}()
	}
	wg.Wait()
	cpu, wall := cpuSeconds()-c0, time.Since(t0).Seconds()
	sort.Slice(late, func(a, b int) bool { return late[a] < late[b] })
	q := func(p float64) float64 { return float64(late[int(float64(n-1)*p)]) }
	report("sleepers_n", float64(n), "tasks")
	report("sleepers_cpu", cpu, "s")
	report("sleepers_wall", wall, "s")
	report("sleepers_late_p50", q(0.5), "us")
	report("sleepers_late_p99", q(0.99), "us")
	report("sleepers_late_max", q(1), "us")
}

// mutex makes the owner yield in its critical section if yields is set, so that others park.
func mutex(n int, yields bool) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	x := 0
	for t := 0; t < 8; t++ {
		wg.Add(1)
		go func() {
			for i := 0; i < n/8; i++ {
				mu.Lock()
				x++
				if yields {
					runtime.Gosched()
				}
				mu.Unlock()
			}
			wg.Done()
		}()
	}
	wg.Wait()
}

func main() {
	bench := flag.String("bench", "all", "")
	n := flag.Int("n", 0, "")
	flag.IntVar(&workers, "workers", 2, "")
	flag.Parse()
	runtime.GOMAXPROCS(workers)
	wants := func(s string) bool {
		return *bench == "all" || strings.Contains(","+*bench+",", ","+s+",")
	}
	count := func(usual int) int {
		if *n > 0 {
			return *n
		}
		return usual
	}
	timed := func(bench, name string, usual int, f func(int)) {
		if wants(bench) {
			perOp(name, count(usual), func() { f(count(usual)) })
		}
	}
	of := func(ends, capacity int) func(int) {
		return func(n int) { channel(n, ends, capacity) }
	}
	if wants("spawn") {
		// The first use of each stack is not timed.
		spawn(10_000)
	}
	timed("spawn", "spawn_join", 1_000_000, spawn)
	timed("yield", "yield", 2_000_000, yield)
	timed("pingpong", "pingpong_switch", 1_000_000, pingpong)
	timed("chan0", "chan_unbuffered", 1_000_000, of(1, 0))
	timed("chan1", "chan_1", 1_000_000, of(1, 1))
	timed("chan128", "chan_128", 2_000_000, of(1, 128))
	timed("mpmc0", "mpmc_unbuffered", 1_000_000, of(4, 0))
	timed("mpmc1", "mpmc_1", 1_000_000, of(4, 1))
	timed("mpmc128", "mpmc_128", 2_000_000, of(4, 128))
	timed("trychan", "chan_ready_send_recv", 4_000_000, readyChannel)
	timed("select0", "select_unbuffered", 1_000_000, func(n int) { selects(n, 0) })
	timed("select128", "select_128", 1_000_000, func(n int) { selects(n, 128) })
	timed("selectdef", "select_default", 4_000_000, selectDefault)
	timed("mutex1", "mutex_1task", 10_000_000, mutexAlone)
	timed("mutex", "mutex_8tasks", 2_000_000, func(n int) { mutex(n, false) })
	timed("mutexpark", "mutex_8tasks_yield", 500_000, func(n int) { mutex(n, true) })
	timed("rwlock1", "rwlock_read_1task", 10_000_000, rwmutexAlone)
	timed("waitgroup", "waitgroup_go_wait", 1_000_000, waitGroup)
	if wants("timers") {
		timers(count(1_000_000))
	}
	if wants("sleepers") {
		sleepers(count(100_000))
	}
	if wants("parked") {
		parked(count(1_000_000))
	}
}
