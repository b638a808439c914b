//! [`Command`].
#![allow(unsafe_code, reason = "`pre_exec` has the contract of std's")]

use super::{Child, CommandArgs, CommandEnvs, ExitStatus, Output, Stdio};
use std::ffi::OsStr;
use std::fmt;
use std::io::Result;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// How to start a child process: [`std::process::Command`], Go's `exec.Command`.
///
/// [`From`] converts a `Command` of `std`. Whether its streams were set cannot be asked, so
/// [`output`](Self::output) then pipes both. The methods of
/// [`CommandExt`](std::os::unix::process::CommandExt) are methods here.
///
/// ```
/// use gopark::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let output = Command::new("sh").args(["-c", "echo $NAME"]).env("NAME", "gopark").output()?;
///     assert_eq!(output.stdout, b"gopark\n");
///     Ok(())
/// })
/// # }
/// ```
pub struct Command {
    std: std::process::Command,
    has_stdin: bool,
    has_stdout: bool,
    has_stderr: bool,
    kill_on_drop: bool,
}

impl Command {
    /// A command that runs `program`, without arguments, with the environment and the working
    /// directory of this process. [`std::process::Command::new`] says how `program` is searched.
    ///
    /// ```
    /// assert!(gopark::process::Command::new("true").status()?.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new<S: AsRef<OsStr>>(program: S) -> Command {
        std::process::Command::new(program).into()
    }

    /// Adds an argument.
    ///
    /// ```
    /// let output = gopark::process::Command::new("echo").arg("a").arg("b").output()?;
    /// assert_eq!(output.stdout, b"a b\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn arg<S: AsRef<OsStr>>(&mut self, arg: S) -> &mut Command {
        self.std.arg(arg);
        self
    }

    /// Adds arguments.
    ///
    /// ```
    /// let output = gopark::process::Command::new("echo").args(["a", "b"]).output()?;
    /// assert_eq!(output.stdout, b"a b\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn args<I, S>(&mut self, args: I) -> &mut Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.std.args(args);
        self
    }

    /// Sets an environment variable of the child.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut command = Command::new("printenv");
    /// command.arg("NAME").env("NAME", "value");
    /// assert_eq!(command.output()?.stdout, b"value\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn env<K: AsRef<OsStr>, V: AsRef<OsStr>>(&mut self, key: K, value: V) -> &mut Command {
        self.std.env(key, value);
        self
    }

    /// Sets environment variables of the child.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut command = Command::new("printenv");
    /// command.arg("B").envs([("A", "1"), ("B", "2")]);
    /// assert_eq!(command.output()?.stdout, b"2\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn envs<I, K, V>(&mut self, vars: I) -> &mut Command
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        self.std.envs(vars);
        self
    }

    /// Removes an environment variable from the child's environment.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut command = Command::new("printenv");
    /// command.arg("HOME").env_remove("HOME");
    /// assert!(!command.status()?.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn env_remove<K: AsRef<OsStr>>(&mut self, key: K) -> &mut Command {
        self.std.env_remove(key);
        self
    }

    /// Gives the child no environment variable of this process.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut command = Command::new("env");
    /// command.env_clear().env("A", "1");
    /// assert_eq!(command.output()?.stdout, b"A=1\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn env_clear(&mut self) -> &mut Command {
        self.std.env_clear();
        self
    }

    /// Sets the working directory of the child.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let output = Command::new("pwd").current_dir("/").output()?;
    /// assert_eq!(output.stdout, b"/\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn current_dir<P: AsRef<Path>>(&mut self, dir: P) -> &mut Command {
        self.std.current_dir(dir);
        self
    }

    /// Sets the child's standard input. The default is that of this process for
    /// [`spawn`](Self::spawn) and [`status`](Self::status), and empty for [`output`](Self::output).
    ///
    /// ```
    /// use gopark::process::{Command, Stdio};
    ///
    /// let status = Command::new("cat").stdin(Stdio::null()).status()?;
    /// assert!(status.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stdin<T: Into<Stdio>>(&mut self, stdin: T) -> &mut Command {
        self.has_stdin = true;
        self.std.stdin(stdin);
        self
    }

    /// Sets the child's standard output. The default is that of this process for
    /// [`spawn`](Self::spawn) and [`status`](Self::status), and a pipe for
    /// [`output`](Self::output).
    ///
    /// ```
    /// use gopark::process::{Command, Stdio};
    ///
    /// let status = Command::new("echo").stdout(Stdio::null()).status()?;
    /// assert!(status.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stdout<T: Into<Stdio>>(&mut self, stdout: T) -> &mut Command {
        self.has_stdout = true;
        self.std.stdout(stdout);
        self
    }

    /// Sets the child's standard error, with the defaults of [`stdout`](Self::stdout).
    ///
    /// ```
    /// use gopark::process::{Command, Stdio};
    ///
    /// let status = Command::new("cat").arg("/no/such/file").stderr(Stdio::null()).status()?;
    /// assert!(!status.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stderr<T: Into<Stdio>>(&mut self, stderr: T) -> &mut Command {
        self.has_stderr = true;
        self.std.stderr(stderr);
        self
    }

    /// Whether to kill the child with `SIGKILL` when its [`Child`] is dropped before its status is
    /// known. By default it goes on, as in `std`. A goroutine then waits for its end, so that it
    /// does not remain a zombie.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// drop(Command::new("sleep").arg("3600").kill_on_drop(true).spawn()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Command {
        self.kill_on_drop = kill;
        self
    }

    /// Sets the child's user (setuid(2)).
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// // Works for root, or for the user of this process.
    /// let _started = Command::new("true").uid(65534).status();
    /// ```
    pub fn uid(&mut self, id: u32) -> &mut Command {
        self.std.uid(id);
        self
    }

    /// Sets the child's group (setgid(2)).
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// // Works for root, or for a group of this process.
    /// let _started = Command::new("true").gid(65534).status();
    /// ```
    pub fn gid(&mut self, id: u32) -> &mut Command {
        self.std.gid(id);
        self
    }

    /// Sets the child's process group (setpgid(2)); 0 makes a new one.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// // A Ctrl-C in the terminal does not reach it.
    /// let mut child = Command::new("true").process_group(0).spawn()?;
    /// child.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn process_group(&mut self, group: i32) -> &mut Command {
        self.std.process_group(group);
        self
    }

    /// Sets the child's argument 0, in place of the program.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut command = Command::new("sh");
    /// let output = command.arg0("name").args(["-c", "echo $0"]).output()?;
    /// assert_eq!(output.stdout, b"name\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn arg0<S: AsRef<OsStr>>(&mut self, arg: S) -> &mut Command {
        self.std.arg0(arg);
        self
    }

    /// Adds a function that the child calls before exec.
    ///
    /// # Safety
    ///
    /// As for [`CommandExt::pre_exec`](std::os::unix::process::CommandExt::pre_exec): `f` runs in a
    /// copy of one thread of this process, and may call async-signal-safe functions only. It must
    /// use nothing of this crate.
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "umask"]);
    /// // SAFETY: umask is async-signal-safe.
    /// unsafe {
    ///     command.pre_exec(|| {
    ///         libc::umask(0o077);
    ///         Ok(())
    ///     })
    /// };
    /// assert_eq!(command.output()?.stdout, b"0077\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn pre_exec<F>(&mut self, f: F) -> &mut Command
    where
        F: FnMut() -> Result<()> + Send + Sync + 'static,
    {
        // SAFETY: the contract is the same.
        unsafe { self.std.pre_exec(f) };
        self
    }

    /// Starts the child. It inherits the standard streams that are not set.
    ///
    /// It does not park. It returns when the child has called exec, or with the error of that.
    /// Starts the runtime with the defaults if it is not running and a stream is piped.
    ///
    /// # Errors
    ///
    /// Those of [`std::process::Command::spawn`], such as `NotFound`.
    ///
    /// ```
    /// use gopark::process::Command;
    /// use std::io::ErrorKind;
    ///
    /// let missing = Command::new("/no/such/program").spawn().unwrap_err();
    /// assert_eq!(missing.kind(), ErrorKind::NotFound);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "Start")]
    pub fn spawn(&mut self) -> Result<Child> {
        spawn(&mut self.std).map(|child| Child::new(child, self.kill_on_drop))
    }

    /// Starts the child and waits until it ends. It inherits the standard streams that are not set.
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn) and [`Child::wait`]. A cancel ends the wait and not the
    /// child, unless [`kill_on_drop`](Self::kill_on_drop) is set. The child is then waited for in
    /// the background, so it leaves no zombie.
    ///
    /// ```
    /// let status = gopark::process::Command::new("false").status()?;
    /// assert_eq!(status.code(), Some(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "Run")]
    pub fn status(&mut self) -> Result<ExitStatus> {
        let mut child = self.spawn()?;
        child.reap_on_drop();
        child.wait()
    }

    /// Starts the child, reads what it writes, and waits until it ends. Unless they are set, its
    /// output streams are pipes and its input is empty.
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn) and [`Child::wait_with_output`].
    ///
    /// ```
    /// let output = gopark::process::Command::new("echo").arg("hello").output()?;
    /// assert_eq!(output.stdout, b"hello\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "CombinedOutput")]
    pub fn output(&mut self) -> Result<Output> {
        self.set_unset(Stdio::null, Stdio::piped);
        let spawned = self.spawn();
        self.set_unset(Stdio::inherit, Stdio::inherit);
        spawned?.wait_with_output()
    }

    /// Sets the streams that the program has not set.
    fn set_unset(&mut self, input: fn() -> Stdio, output: fn() -> Stdio) {
        if !self.has_stdin {
            self.std.stdin(input());
        }
        if !self.has_stdout {
            self.std.stdout(output());
        }
        if !self.has_stderr {
            self.std.stderr(output());
        }
    }

    /// The program.
    ///
    /// ```
    /// assert_eq!(gopark::process::Command::new("true").get_program(), "true");
    /// ```
    pub fn get_program(&self) -> &OsStr {
        self.std.get_program()
    }

    /// The arguments.
    ///
    /// ```
    /// let mut command = gopark::process::Command::new("echo");
    /// assert_eq!(command.args(["a", "b"]).get_args().count(), 2);
    /// ```
    pub fn get_args(&self) -> CommandArgs<'_> {
        self.std.get_args()
    }

    /// The environment variables that are set for the child, or removed.
    ///
    /// ```
    /// let mut command = gopark::process::Command::new("env");
    /// assert_eq!(command.env("A", "1").get_envs().count(), 1);
    /// ```
    pub fn get_envs(&self) -> CommandEnvs<'_> {
        self.std.get_envs()
    }

    /// The working directory, if it is set.
    ///
    /// ```
    /// assert_eq!(gopark::process::Command::new("true").get_current_dir(), None);
    /// ```
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.std.get_current_dir()
    }
}

/// Never inlined: it reads errno. See `Socket::with`.
#[inline(never)]
fn spawn(command: &mut std::process::Command) -> Result<std::process::Child> {
    command.spawn()
}

impl From<std::process::Command> for Command {
    fn from(std: std::process::Command) -> Self {
        Command {
            std,
            has_stdin: false,
            has_stdout: false,
            has_stderr: false,
            kill_on_drop: false,
        }
    }
}

/// The command line.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.std.fmt(f)
    }
}
