//! A pool of `r2d2`.

use crate::check;
use dependents::{Ticker, pool, use_connection};
use std::sync::atomic::Ordering;
use std::thread;

const USERS: usize = 50;
const USES: usize = 4;
const CONNECTIONS: u32 = 2;

/// All goroutines are on one thread, and all but two of them wait for a connection.
#[test]
fn goroutines_of_a_thread_share_connections_and_their_neighbours_go_on() {
    check(|| {
        let (pool, made) = pool(CONNECTIONS).unwrap();
        let ticker = Ticker::start();
        let users = Vec::from_iter((0..USERS).map(|_| {
            let pool = pool.clone();
            gopark::go_local(move || (0..USES).try_for_each(|_| use_connection(&pool)))
        }));
        let mut seen = ticker.turns();
        for user in users {
            user.join().unwrap().unwrap();
            // Every use parks in the poller, and each wait for that gives the neighbour a turn.
            let turns = ticker.turns();
            assert!(turns >= seen);
            seen = turns;
        }
        assert!(seen > USERS, "the ticker had {seen} turns only");
        ticker.stop();
        assert_eq!(pool.state().idle_connections, CONNECTIONS);
        assert_eq!(made.load(Ordering::Relaxed), CONNECTIONS as usize);
    });
}

#[test]
fn goroutines_and_threads_share_connections() {
    check(|| {
        let (pool, made) = pool(CONNECTIONS).unwrap();
        let ticker = Ticker::start();
        let goroutines = Vec::from_iter((0..USERS).map(|_| {
            let pool = pool.clone();
            gopark::go(move || (0..USES).try_for_each(|_| use_connection(&pool)))
        }));
        let threads = Vec::from_iter((0..6).map(|_| {
            let pool = pool.clone();
            thread::spawn(move || (0..USES).try_for_each(|_| use_connection(&pool)))
        }));
        for goroutine in goroutines {
            goroutine.join().unwrap().unwrap();
        }
        for thread in threads {
            // A join of `std` would keep the thread of the other goroutines.
            let joined = gopark::blocking(move || thread.join());
            joined.unwrap().unwrap();
        }
        assert!(ticker.turns() > USERS);
        ticker.stop();
        assert_eq!(pool.state().idle_connections, CONNECTIONS);
        assert_eq!(made.load(Ordering::Relaxed), CONNECTIONS as usize);
    });
}
