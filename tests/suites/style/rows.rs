//! The rows of modules, which say which module may import which.

use crate::source::Source;

/// The modules that a source imports below `root`: `a` and `b` for `root::a::x` and for `root::{a,
/// b::y}`.
pub(crate) fn imports(source: &Source, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let prefix = format!("{root}::");
    for line in source.library_lines() {
        for (at, _) in line.code.match_indices(&prefix) {
            if line.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line.code[at + prefix.len()..];
            for name in first_names(rest) {
                found.push((line.number, name));
            }
        }
    }
    found
}

pub(crate) fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut depth = 0;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Modules in rows. A module imports from the rows above its own, and from its row what stands to
/// its left.
pub(crate) struct Table {
    /// The folder of the modules. The files in a module's own folder belong to the module.
    pub(crate) folder: &'static str,
    /// The beginning of an import of a module.
    root: &'static str,
    /// The file of the root, if modules also import its items. What it re-exports from a module
    /// counts as an import of that module.
    root_file: Option<&'static str>,
    /// The rows, the lowest layer first.
    pub(crate) rows: &'static [&'static [&'static str]],
}

pub(crate) const TABLES: [Table; 3] = [
    Table {
        folder: "core/src/",
        root: "crate",
        root_file: None,
        rows: &ROWS,
    },
    Table {
        folder: "std-shim/src/",
        root: "crate",
        root_file: Some(include_str!("../../../std-shim/src/lib.rs")),
        rows: &STD_SHIM_ROWS,
    },
    Table {
        folder: "core/src/sched/",
        root: "super",
        root_file: Some(include_str!("../../../core/src/sched.rs")),
        rows: &SCHED_ROWS,
    },
];

/// The rows of `core/src/lib.rs`.
pub(crate) const ROWS: [&[&str]; 9] = [
    &[
        "tagptr", "steps", "os", "sync", "counter", "must", "wake_sig",
    ],
    &[
        "stack",
        "switch",
        "fiber",
        "wait_info",
        "trace",
        "g",
        "waiter",
        "choice",
        "runq",
        "timer",
    ],
    &[
        "retake",
        "lock_wait",
        "poller",
        "polldesc",
        "p",
        "metrics",
        "m",
        "timed",
    ],
    &["sched", "runtime"],
    &[
        "permits",
        "fdmutex",
        "withdraw",
        "select",
        "locked_queue",
        "latch",
        "netpoll",
    ],
    &["join", "local", "sleep", "blocking", "cancel", "futex"],
    &[
        "chan",
        "alarm",
        "mutex",
        "condvar",
        "rwlock",
        "once",
        "semaphore",
        "wait_group",
        "notify",
    ],
    &["fd", "io_error"],
    &["watch"],
];

/// The rows of `std-shim/src/lib.rs`.
pub(crate) const STD_SHIM_ROWS: [&[&str]; 8] = [
    &["environment", "error", "fork", "parker", "backtraces"],
    &["runtime", "poller", "local", "std_locks"],
    &[
        "panics",
        "overflow",
        "signals",
        "dump",
        "stderr",
        "report",
        "leak",
        "schedtrace",
        "trace",
    ],
    &["switches", "builder", "global"],
    &[
        "cancel",
        "pool",
        "park",
        "goroutine",
        "group",
        "scope",
        "thread",
    ],
    &["inspect", "net", "chan", "select"],
    &["sync", "time"],
    &["signal", "fs", "process", "io"],
];

/// The rows of `core/src/sched.rs`.
pub(crate) const SCHED_ROWS: [&[&str]; 5] = [
    &["trace", "metrics", "hooks"],
    &[
        "fork",
        "unwinding",
        "wake",
        "idle",
        "ready",
        "park",
        "stackless",
    ],
    &["placement", "find", "handoff", "run"],
    &["watchers", "pool", "stall", "quiescence", "sysmon"],
    &["config", "threads"],
];

impl Table {
    /// The module that `source` belongs to, if it is one of this table.
    pub(crate) fn module<'a>(&self, source: &'a Source) -> Option<&'a str> {
        let path = source.path.strip_prefix(self.folder)?.strip_suffix(".rs")?;
        (path != "lib").then(|| path.split('/').next().unwrap())
    }

    /// How many modules precede the module `name`.
    fn position(&self, name: &str) -> Option<usize> {
        let mut modules = self.rows.iter().flat_map(|row| row.iter());
        modules.position(|module| *module == name)
    }

    /// `name`, if it is a module, or the module from which the root re-exports it.
    fn origin(&self, name: &str) -> String {
        if self.position(name).is_some() {
            return name.into();
        }
        let exports = self.root_file.unwrap_or_default().split(';');
        let mut origins = exports.filter_map(|item| {
            let (_, path) = item.split_once("use ")?;
            let (module, names) = path.split_once("::")?;
            first_names(names)
                .iter()
                .any(|it| it == name)
                .then(|| String::from(module))
        });
        origins.next_back().unwrap_or_else(|| name.into())
    }

    fn violations(&self, source: &Source) -> Vec<String> {
        let Some(module) = self.module(source) else {
            return Vec::new();
        };
        let Some(own) = self.position(module) else {
            return vec![format!("module {module} stands in no row")];
        };
        let wrong = |name: &str| match self.position(&self.origin(name)) {
            Some(position) => position > own,
            None => self.root_file.is_none(),
        };
        imports(source, self.root)
            .into_iter()
            .filter(|(_, name)| wrong(name))
            .map(|(line, name)| {
                format!(
                    "line {line}: {module} imports {name}, which is not above it or to its left"
                )
            })
            .collect()
    }
}

pub(crate) fn imports_go_up(source: &Source) -> Vec<String> {
    TABLES
        .iter()
        .flat_map(|table| table.violations(source))
        .collect()
}

/// The modules in each row of a Markdown table whose first column counts from 0.
pub(crate) fn rows_of_table(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line
            .trim_start_matches(['/', '!'])
            .trim()
            .split('|')
            .collect();
        let [_, row, modules, ..] = cells[..] else {
            return None;
        };
        row.trim().parse::<usize>().ok()?;
        let mut names: Vec<_> = modules
            .split('`')
            .skip(1)
            .step_by(2)
            .map(String::from)
            .collect();
        names.sort();
        Some(names)
    });
    rows.collect()
}
