//! `GOPARK_TRACE`: the timelines of the program `src/bin/traced.rs`, read as a viewer reads them.

use gopark_tests::process::{Ended, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("trace-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("timeline.json")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command that runs the program in `folder` and records a timeline there.
fn traced(folder: &Folder, procs: u32, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_traced"));
    command
        .args(args)
        .current_dir(&folder.0)
        .env("GOPARK_MAXPROCS", procs.to_string())
        .env("RUST_BACKTRACE", "0");
    command
        .env("GOPARK_TRACE", folder.file())
        .env_remove("GOPARK_TRACE_LIMIT");
    command
}

/// Nanoseconds, from the microseconds of the format.
fn nanos(event: &Value, key: &str) -> i64 {
    (event[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key} in {event}"))
        * 1000.0)
        .round() as i64
}

type Row = (u64, u64);

fn row(event: &Value) -> Row {
    (
        event["pid"].as_u64().unwrap(),
        event["tid"].as_u64().unwrap(),
    )
}

#[derive(Debug)]
struct Slice {
    row: Row,
    start: i64,
    end: i64,
    name: String,
    args: Value,
}

impl Slice {
    fn goroutine(&self) -> Option<u64> {
        self.args["goroutine"].as_u64()
    }
}

struct Timeline {
    events: Vec<Value>,
    /// Sorted by start.
    slices: Vec<Slice>,
}

impl Timeline {
    #[track_caller]
    fn parse(text: &str) -> Self {
        let Value::Array(events) = serde_json::from_str(text).expect("well-formed") else {
            panic!("no array")
        };
        let mut slices: Vec<_> = events
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(slice)
            .collect();
        slices.sort_by_key(|slice| (slice.start, -slice.end));
        Timeline { events, slices }
    }

    fn of_kind(&self, ph: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["ph"] == ph)
    }

    fn instants(&self, name: &str) -> Vec<&Value> {
        self.of_kind("i")
            .filter(|event| event["name"] == name)
            .collect()
    }

    fn of_goroutine(&self, id: u64) -> Vec<&Slice> {
        self.slices
            .iter()
            .filter(|slice| slice.goroutine() == Some(id))
            .collect()
    }

    /// Checks that every row that is used has a name, and that the names are right.
    fn check_rows(&self, procs: u64) {
        let named = self
            .of_kind("M")
            .filter(|event| event["name"] == "thread_name");
        let named: BTreeMap<Row, &str> = named
            .map(|event| (row(event), event["args"]["name"].as_str().unwrap()))
            .collect();
        for p in 0..procs {
            assert_eq!(named[&(1, p + 1)], format!("P{p}"));
        }
        assert_eq!(
            named.keys().filter(|(pid, _)| *pid == 1).count() as u64,
            procs
        );
        for slice in &self.slices {
            assert!(
                named.contains_key(&slice.row),
                "{slice:?} is on a row without a name"
            );
        }
        for event in self
            .of_kind("i")
            .chain(self.of_kind("s"))
            .chain(self.of_kind("f"))
        {
            assert!(
                named.contains_key(&row(event)),
                "{event} is on a row without a name"
            );
        }
    }

    /// Checks that a P runs one goroutine at a time, and that a goroutine runs in one place at a
    /// time.
    fn check_turns(&self) {
        let mut last_on_row: BTreeMap<Row, &Slice> = BTreeMap::new();
        let mut last_of_goroutine: BTreeMap<u64, &Slice> = BTreeMap::new();
        for slice in &self.slices {
            assert!(slice.start <= slice.end, "{slice:?}");
            let before = if slice.row.0 == 1 {
                last_on_row.insert(slice.row, slice)
            } else {
                None
            };
            assert!(
                before.is_none_or(|before| before.end <= slice.start),
                "{before:?} overlaps {slice:?}"
            );
            let before = slice
                .goroutine()
                .and_then(|g| last_of_goroutine.insert(g, slice));
            assert!(
                before.is_none_or(|before| before.end <= slice.start),
                "{before:?} overlaps {slice:?}"
            );
        }
    }

    /// Checks that each arrow leads from a slice to the beginning of a later one. The last slice of
    /// a P may be cut off at the end of the file.
    fn check_arrows(&self) {
        let by_id = |ph| {
            self.of_kind(ph)
                .map(|event| (event["id"].as_u64().unwrap(), event))
                .collect::<BTreeMap<_, _>>()
        };
        let (starts, ends) = (by_id("s"), by_id("f"));
        assert!(
            starts.keys().eq(ends.keys()),
            "arrows without a beginning or an end"
        );
        assert_eq!(starts.len(), self.of_kind("s").count());
        assert_eq!(ends.len(), self.of_kind("f").count());
        for (id, start) in &starts {
            let end = ends[id];
            let (left, arrived) = (nanos(start, "ts"), nanos(end, "ts"));
            assert!(left < arrived, "{start} {end}");
            let mut after = self
                .slices
                .iter()
                .filter(|slice| slice.row == row(start) && left <= slice.end);
            assert!(
                after
                    .next()
                    .map_or(row(start).0 == 1, |slice| slice.start <= left),
                "{start} begins at no slice"
            );
            let target = self
                .slices
                .iter()
                .find(|slice| slice.row == row(end) && slice.start == arrived)
                .unwrap_or_else(|| panic!("{end}"));
            assert_eq!(end["bp"], "e");
            assert_eq!(
                nanos(&target.args, "ready_us"),
                arrived - left,
                "{target:?}"
            );
        }
        let arrived = self
            .slices
            .iter()
            .filter(|slice| !slice.args["ready_us"].is_null())
            .count();
        assert_eq!(starts.len(), arrived);
    }

    fn check_end(&self, why: &str) {
        let end = self.events.last().unwrap();
        assert_eq!(
            (&end["name"], &end["args"]["why"]),
            (&Value::from("end of the trace"), &Value::from(why))
        );
        assert!(end["args"]["lost_records"].is_u64(), "{end}");
    }
}

fn slice(event: &Value) -> Slice {
    let start = nanos(event, "ts");
    let name = event["name"].as_str().unwrap().to_string();
    Slice {
        row: row(event),
        start,
        end: start + nanos(event, "dur"),
        name,
        args: event["args"].clone(),
    }
}

/// The numbers that the program printed after `name`.
fn printed(ended: &Ended, name: &str) -> Vec<u64> {
    let numbers = ended
        .output
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .collect::<Vec<_>>();
    assert!(!numbers.is_empty(), "no {name} in\n{}", ended.output);
    numbers
}

/// Checks that every goroutine was spawned, begins with an arrow, and returned.
fn check_goroutines(timeline: &Timeline, ended: &Ended) {
    let spawned: BTreeSet<_> = timeline
        .instants("spawn")
        .iter()
        .map(|event| event["args"]["goroutine"].as_u64().unwrap())
        .collect();
    let seen: BTreeSet<_> = timeline
        .slices
        .iter()
        .filter_map(Slice::goroutine)
        .collect();
    assert_eq!(spawned, seen);
    for name in ["acceptor", "server", "client", "occupier", "other"] {
        for id in printed(ended, name) {
            let slices = timeline.of_goroutine(id);
            let (first, last) = (slices.first().expect("it ran"), slices.last().unwrap());
            assert!(!first.args["readied_by"].is_null(), "{first:?}");
            assert!(
                ["returned", "came back", "still running"]
                    .contains(&last.args["end"].as_str().unwrap()),
                "{last:?}"
            );
            for slice in &slices {
                let site = slice.args["site"].as_str().unwrap();
                let (file, position) = site.split_once(".rs:").unwrap();
                assert!(file.ends_with("tests/src/bin/traced"), "{slice:?}");
                let label = match name {
                    "server" => "echo \"it\"".into(),
                    _ => format!("traced.rs:{}", position.split(':').next().unwrap()),
                };
                assert_eq!(slice.name, format!("G{id} {label}"));
                assert_eq!(
                    slice.args["name"].as_str(),
                    (name == "server").then_some(&*label)
                );
            }
        }
    }
    for id in printed(ended, "client") {
        let waits = timeline
            .of_goroutine(id)
            .iter()
            .filter(|slice| slice.args["end"] == "blocked: IO wait")
            .count();
        assert!(waits > 1, "client {id} has waited {waits} times");
    }
}

#[test]
fn a_timeline_shows_where_goroutines_ran_and_what_woke_them() {
    for (procs, args) in [(1, &["20"][..]), (2, &["20"]), (2, &["20", "migrate"])] {
        let folder = Folder::new(&format!("whole-{procs}-{}", args.len()));
        let ended = run(&mut traced(&folder, procs, args));
        ended.assert_success();
        let timeline = Timeline::parse(&folder.text());
        timeline.check_rows(procs.into());
        timeline.check_turns();
        timeline.check_arrows();
        timeline.check_end("exit of the process");
        check_goroutines(&timeline, &ended);
        assert!(
            timeline
                .slices
                .iter()
                .any(|slice| slice.name == "netpoll" && slice.args["woken"].as_u64() > Some(0))
        );
        assert!(timeline.slices.iter().any(|slice| slice.name == "timers"));
        assert!(!timeline.instants("idle").is_empty());
    }
}

#[test]
fn a_timeline_shows_a_goroutine_that_stays_on_its_thread() {
    let folder = Folder::new("sticky");
    let ended = run(&mut traced(&folder, 2, &["20"]));
    ended.assert_success();
    let timeline = Timeline::parse(&folder.text());
    for id in printed(&ended, "client") {
        let ms: BTreeSet<_> = timeline
            .of_goroutine(id)
            .iter()
            .filter_map(|slice| slice.args["m"].as_u64())
            .collect();
        assert_eq!(ms.len(), 1, "client {id} has run on {ms:?}");
    }
}

#[test]
fn a_timeline_shows_what_has_cancelled_a_goroutine_and_so_woken_it() {
    let folder = Folder::new("cancel");
    let ended = run(&mut traced(&folder, 2, &["1"]));
    ended.assert_success();
    let timeline = Timeline::parse(&folder.text());
    let id = |name| match printed(&ended, name)[..] {
        [id] => id,
        _ => panic!("{}", ended.output),
    };
    let cancel_of = |id: u64| {
        let cancels = timeline.instants("cancel");
        let of_id = |cancel: &&Value| cancel["args"]["goroutine"].as_u64() == Some(id);
        match cancels.into_iter().filter(of_id).collect::<Vec<_>>()[..] {
            [cancel] => (nanos(cancel, "ts"), cancel["args"]["by"].as_str().unwrap()),
            ref cancels => panic!("{id} was cancelled {} times", cancels.len()),
        }
    };
    let woken = |id| *timeline.of_goroutine(id).last().unwrap();
    let (cancelled, canceller) = (id("cancelled"), id("canceller"));
    let (time, by) = cancel_of(cancelled);
    let expected = format!("goroutine {canceller} at tests/src/bin/traced.rs:");
    assert!(by.starts_with(&expected), "{by}");
    let wake = woken(cancelled);
    assert_eq!(wake.args["readied_by"].as_u64(), Some(canceller));
    assert!(time <= wake.start - nanos(&wake.args, "ready_us"));
    let (time, by) = cancel_of(id("late"));
    assert_eq!(by, "a deadline");
    let wake = woken(id("late"));
    assert_eq!(wake.args["readied_by"].as_u64(), Some(0));
    assert!(time <= wake.start - nanos(&wake.args, "ready_us"));
}

#[test]
fn a_goroutine_without_a_p_appears_in_the_row_of_its_thread() {
    let folder = Folder::new("outstayed");
    let ended = run(&mut traced(&folder, 1, &["1"]));
    ended.assert_success();
    let timeline = Timeline::parse(&folder.text());
    let [id] = printed(&ended, "occupier")[..] else {
        panic!("{}", ended.output)
    };
    let slices = timeline.of_goroutine(id);
    let lost = slices
        .iter()
        .position(|slice| slice.args["end"] == "lost its P")
        .expect("its P was taken");
    let (before, after) = (slices[lost], slices[lost + 1]);
    assert_eq!(
        (before.row, after.row.0, before.end),
        ((1, 1), 2, after.start)
    );
    let hand_offs = timeline.instants("hand-off");
    assert!(
        hand_offs
            .iter()
            .any(|event| row(event) == (1, 1) && nanos(event, "ts") == before.end),
        "{hand_offs:?}"
    );
    let [other] = printed(&ended, "other")[..] else {
        panic!("{}", ended.output)
    };
    let other = timeline.of_goroutine(other)[0];
    assert!(
        after.start <= other.start && other.start <= after.end && other.row == before.row,
        "{other:?} {after:?}"
    );
}

#[test]
fn a_file_ends_properly_within_its_limit() {
    for limit in [1024, 3000, 20_000] {
        let folder = Folder::new(&format!("limit-{limit}"));
        run(traced(&folder, 2, &["500"]).env("GOPARK_TRACE_LIMIT", limit.to_string()))
            .assert_success();
        let text = folder.text();
        assert!(
            text.len() <= limit,
            "{} bytes are more than {limit}",
            text.len()
        );
        let timeline = Timeline::parse(&text);
        timeline.check_end(&format!("the limit of {limit} bytes (GOPARK_TRACE_LIMIT)"));
        timeline.check_turns();
        timeline.check_arrows();
        assert!(limit < 20_000 || timeline.slices.len() > 10, "{text}");
    }
}

#[test]
fn an_aborted_program_leaves_a_file_that_lacks_only_its_end() {
    let folder = Folder::new("died");
    let ended = run(&mut traced(&folder, 2, &["20", "abort"]));
    ended.assert_killed_by(libc::SIGABRT);
    ended.assert_said("gopark-trace");
    let text = folder.text();
    let complete = format!(
        "{}]",
        text.trim_end().strip_suffix(',').expect("whole events")
    );
    let timeline = Timeline::parse(&complete);
    timeline.check_rows(2);
    timeline.check_turns();
    timeline.check_arrows();
}

/// The thread that writes the file might have no wake-up to record.
#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_deadlock_is_seen_in_spite_of_the_trace() {
    let folder = Folder::new("deadlock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_watched"));
    let ended = run(command
        .arg("deadlock")
        .env("GOPARK_TRACE", folder.file())
        .env("RUST_BACKTRACE", "0"));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("all goroutines are asleep - deadlock!");
}

#[test]
fn without_the_variable_no_file_is_written() {
    let folder = Folder::new("off");
    for command in [
        traced(&folder, 2, &["1"]).env_remove("GOPARK_TRACE"),
        traced(&folder, 2, &["1"]).env("GOPARK_TRACE", ""),
    ] {
        let ended = run(command);
        ended.assert_success();
        ended.assert_said("threads: ");
        assert!(!ended.output.contains("gopark-trace"), "{}", ended.output);
    }
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_of_the_start() {
    let folder = Folder::new("refused");
    let path = folder.0.join("no-such-folder/timeline.json");
    let ended = run(traced(&folder, 2, &["1"]).env("GOPARK_TRACE", &path));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.output);
    ended.assert_said(&format!(
        "GOPARK_TRACE: {}: No such file or directory",
        path.display()
    ));
}

#[test]
fn an_invalid_or_too_small_limit_is_an_error_of_the_start() {
    let folder = Folder::new("limits");
    for limit in ["much", "-1", "1023"] {
        let ended = run(traced(&folder, 2, &["1"]).env("GOPARK_TRACE_LIMIT", limit));
        assert_eq!(ended.status.code(), Some(1), "{}", ended.output);
        ended.assert_said("GOPARK_TRACE_LIMIT: ");
        ended.assert_said("is not a number of bytes, 1024 or more");
        assert!(!folder.file().exists());
    }
}
