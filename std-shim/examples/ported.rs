//! A program that was written for threads: it counts the words of a text in parallel.
//!
//! ```text
//! cargo run --example ported
//! ```
//!
//! The port to goroutines changed only the first two lines below. They were
//! `use std::thread::spawn as go;` and `use std::sync::{…};`. A test also compiles this file with
//! the names of `std`, calls its `main`, and compares what both programs print.

use gopark::go;
use gopark::sync::{Arc, Barrier, Condvar, Mutex, OnceLock, RwLock, mpsc};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const WORKERS: usize = 4;

const TEXT: &str = "\
A goroutine that must wait for a socket parks
its thread runs the next goroutine and the poller
waits for the socket
when the socket is ready the poller makes the goroutine ready
and a thread runs it
a lock of std does not park a goroutine it blocks the thread
a lock of gopark parks the goroutine and the thread runs the next";

pub(crate) fn main() {
    // Lines go through a queue to the workers, and words from there through a channel to `main`.
    let queue = Arc::new(Queue::default());
    let start = Arc::new(Barrier::new(WORKERS));
    let lengths = Arc::new(RwLock::new(BTreeMap::new()));
    let (words, found) = mpsc::sync_channel(2);
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (queue, start, lengths) = (queue.clone(), start.clone(), lengths.clone());
            let words = words.clone();
            go(move || {
                let is_first = start.wait().is_leader();
                let mut lines = 0;
                while let Some(line) = queue.pop() {
                    lines += 1;
                    for word in line.split(' ').filter(|word| !is_common(word)) {
                        count(&lengths, word.len());
                        words.send(word).expect("main receives");
                    }
                }
                (is_first, lines)
            })
        })
        .collect();
    drop(words);

    let reader = go(move || {
        TEXT.lines().for_each(|line| queue.push(line));
        queue.close();
    });
    let mut counts = BTreeMap::new();
    for word in found {
        *counts.entry(word).or_insert(0) += 1;
    }
    reader.join().unwrap();
    let ends: Vec<_> = workers.into_iter().map(|it| it.join().unwrap()).collect();

    println!("{} lines", ends.iter().map(|(_, n)| n).sum::<usize>());
    println!("{} leader", ends.iter().filter(|(first, _)| *first).count());
    println!("{counts:?}");
    println!("lengths {:?}", lengths.read().unwrap());
}

/// Whether the word is too common to be counted. The first caller makes the list.
fn is_common(word: &str) -> bool {
    static COMMON: OnceLock<HashSet<&str>> = OnceLock::new();
    let common = COMMON.get_or_init(|| "a A and for in is it its of the".split(' ').collect());
    common.contains(word)
}

/// Counts a word of this length. Only the first word of a length needs the write lock.
fn count(lengths: &RwLock<BTreeMap<usize, AtomicUsize>>, length: usize) {
    if let Some(count) = lengths.read().unwrap().get(&length) {
        count.fetch_add(1, Relaxed);
        return;
    }
    let mut lengths = lengths.write().unwrap();
    *lengths.entry(length).or_default().get_mut() += 1;
}

/// A queue with a bound, as in a textbook.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<&'static str>,
    closed: bool,
}

impl Queue {
    fn push(&self, line: &'static str) {
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| state.lines.len() == 2)
            .unwrap();
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    /// The next line. Waits for it; `None` if the queue is closed and empty.
    fn pop(&self) -> Option<&'static str> {
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| state.lines.is_empty() && !state.closed)
            .unwrap();
        self.changed.notify_all();
        state.lines.pop_front()
    }

    fn close(&self) {
        self.state.lock().unwrap().closed = true;
        self.changed.notify_all();
    }
}
