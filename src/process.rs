//! The one place that runs other programs: with argument lists instead of a shell, with a time limit,
//! and with all output captured.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use rustix::fs::{Access, MemfdFlags, access, memfd_create};
use signal_hook::consts::SIGKILL;
use subprocess::{Exec, ExecExt, ExitStatus, Job, JobExt, Redirection};

use crate::heartbeat;

/// How long a program may take before it is killed, unless the caller allows more.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How many bytes a program may print to each output. nft prints 3.6 MB for 4,000 VMs.
const OUTPUT_LIMIT: usize = 256 << 20;

/// How long to wait for a killed program to end.
const GRACE: Duration = Duration::from_secs(1);

/// The directories of system programs.
const SYSTEM_DIRS: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The output of a program, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    program: &'static str,
    status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    stderr: String,
}

impl Output {
    /// Tells whether its exit status was 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Tells whether its error messages contain these words.
    pub fn says(&self, words: &str) -> bool {
        self.stderr.contains(words)
    }

    /// Describes the failure in one line, in the program's own words.
    pub fn failure(&self) -> Error {
        let mut words: Vec<_> = self.stderr.lines().map(without_label).collect();
        words.retain(|line| !line.is_empty());
        // nft repeats the same message for each of a thousand commands.
        words.dedup();
        words.truncate(6);
        match words.as_slice() {
            [] => anyhow!(
                "{} failed without a message ({})",
                self.program,
                self.status
            ),
            words => anyhow!("{}: {}", self.program, words.join(" ")),
        }
    }

    /// Returns the standard output, or an error if the program failed.
    pub fn checked(self) -> Result<String> {
        if !self.success() {
            return Err(self.failure());
        }
        Ok(self.stdout)
    }
}

/// A line without the word "error", which virsh and nft put in front and our own message has already.
fn without_label(line: &str) -> &str {
    let line = line.trim();
    let labels = ["error: ", "Error: "];
    let plain = labels.iter().find_map(|label| line.strip_prefix(label));
    plain.unwrap_or(line)
}

/// Runs `program`, found in `PATH` or where system programs are.
///
/// # Errors
/// If it cannot be started, takes longer than [`TIME_LIMIT`] or prints too much. An exit status other
/// than 0 is no error here: see [`Output::checked`].
pub fn run(program: &'static str, args: &[&str], stdin: &str) -> Result<Output> {
    let command = Exec::cmd(find(program)?).args(args);
    Ok(exec(program, command, stdin, TIME_LIMIT)?)
}

/// Like [`run`], but without input, and with this environment variable.
///
/// # Errors
/// Like [`run`].
pub fn run_with(program: &'static str, args: &[&str], variable: (&str, &str)) -> Result<Output> {
    let (name, value) = variable;
    let command = Exec::cmd(find(program)?).args(args).env(name, value);
    Ok(exec(program, command, "", TIME_LIMIT)?)
}

/// Like [`run`], but without input and with another time limit.
///
/// # Errors
/// Like [`run`]; with the output until the program was killed.
pub fn run_patiently(
    program: &'static str,
    args: &[&str],
    limit: Duration,
) -> Result<Output, Unfinished> {
    let command = Exec::cmd(find(program)?).args(args);
    exec(program, command, "", limit)
}

/// Like [`run_patiently`], for the program at this path, and with this standard input.
///
/// # Errors
/// Like [`run_patiently`].
pub fn run_path(
    path: &Path,
    args: &[&str],
    stdin: &str,
    limit: Duration,
) -> Result<Output, Unfinished> {
    exec("the program", Exec::cmd(path).args(args), stdin, limit)
}

/// A program that did not end by itself.
#[derive(Debug)]
pub struct Unfinished {
    /// Its standard output until then.
    pub stdout: String,
    /// What went wrong.
    pub error: Error,
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self {
            stdout: String::new(),
            error,
        }
    }
}

impl From<Unfinished> for Error {
    fn from(unfinished: Unfinished) -> Self {
        unfinished.error
    }
}

/// The result of a program that ran in our place.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: u8,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program in our place: it reads our standard input, writes to our standard output, and has no
/// time limit.
///
/// # Errors
/// If it cannot be started, or was killed.
pub fn delegate(path: &Path, args: &[OsString]) -> Result<Ended> {
    let mut command = Command::new(path);
    command
        .args(args)
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let status = output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok());
    Ok(Ended {
        status: status.with_context(|| format!("{} ended by {}", path.display(), output.status))?,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs macfence again as another user, with these arguments. The other process reports its own errors.
/// Returns whether it succeeded.
///
/// # Errors
/// If it cannot be started.
pub fn again_as(user: u32, group: u32, args: &[&str]) -> Result<bool> {
    let path = env::current_exe().context("cannot find this program's own path in /proc")?;
    let mut command = Command::new(&path);
    command.args(args).uid(user).gid(group).current_dir("/");
    let ended = command
        .status()
        .with_context(|| format!("cannot run {} as user {user}", path.display()))?;
    Ok(ended.success())
}

/// Tells whether sudo started us, perhaps for a user with fewer rights, whose environment must not
/// choose what root runs. sudo sets this variable itself, and the caller cannot remove it.
fn is_through_sudo() -> bool {
    env::var_os("SUDO_UID").is_some()
}

/// Finds `program`.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = search_path()?;
    // The crates for this also expand `~`, for which glibc loads the host's NSS modules. In a statically
    // linked program those may be of another glibc.
    let mut files = env::split_paths(&path).map(|dir| dir.join(program));
    files
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
        .with_context(|| format!("{program} was not found: is it installed?"))
}

/// The caller's `PATH`, unless sudo started us, and the directories of system programs, which `PATH`
/// lacks for many unprivileged users and in some hooks.
fn search_path() -> Result<OsString> {
    let callers = env::var_os("PATH").filter(|_| !is_through_sudo());
    let dirs = callers.iter().flat_map(env::split_paths);
    // An empty or relative entry would stand for the directory in which a hook is called.
    let dirs = dirs.filter(|dir| dir.is_absolute());
    env::join_paths(dirs.chain(SYSTEM_DIRS.map(PathBuf::from))).context("cannot read PATH")
}

fn exec(
    program: &'static str,
    command: Exec,
    stdin: &str,
    limit: Duration,
) -> Result<Output, Unfinished> {
    heartbeat::beat();
    let command = if is_through_sudo() {
        // LD_*, LIBVIRT_*, XDG_* and others would influence the program.
        let path = search_path()?;
        command.env_clear().env("PATH", path).cwd("/")
    } else {
        command
    };
    let mut job = command
        .env("LC_ALL", "C")
        .stdin(input(stdin)?)
        .stdout(Redirection::Pipe)
        .stderr(Redirection::Pipe)
        // A process group of its own, so that a hanging program can be killed with its children.
        .setpgid()
        // Do not wait for it on drop: a program that is stuck in the kernel cannot be killed.
        .detached()
        .start()
        .with_context(|| format!("cannot run {program}"))?;
    let (mut stdout, mut stderr) = (Sink::default(), Sink::default());
    let status = talk(&mut job, limit, &mut stdout, &mut stderr).map_err(|e| {
        let end = if kill(&job) {
            "was killed"
        } else {
            "cannot be killed: its changes may still take effect"
        };
        let error = match e.kind() {
            ErrorKind::TimedOut => {
                let limit = limit.as_secs();
                anyhow!("{program} did not end within {limit} s and {end}")
            }
            ErrorKind::FileTooLarge => {
                let limit = OUTPUT_LIMIT >> 20;
                anyhow!("{program} printed more than {limit} MiB and {end}")
            }
            _ => Error::new(e).context(format!("cannot read the output of {program}")),
        };
        Unfinished {
            stdout: String::from_utf8_lossy(&stdout.0).into_owned(),
            error,
        }
    })?;
    Ok(Output {
        program,
        status,
        stdout: String::from_utf8(stdout.0)
            .with_context(|| format!("{program} printed text that is not UTF-8"))?,
        stderr: String::from_utf8_lossy(&stderr.0).into_owned(),
    })
}

/// Holds input in a file in memory instead of a pipe. nft before 1.1 reads its input twice, first to
/// see whether it is JSON, and a pipe is empty the second time.
fn input(text: &str) -> Result<Redirection> {
    if text.is_empty() {
        return Ok(Redirection::Null);
    }
    let write = || -> io::Result<File> {
        // Since Linux 6.3 a kernel may insist on this flag (vm.memfd_noexec), which older kernels do
        // not know.
        let memory = memfd_create("input", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create("input", MemfdFlags::CLOEXEC))?;
        let mut file = File::from(memory);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    };
    let file = write().context("cannot hold a program's input in memory")?;
    Ok(Redirection::File(file))
}

/// Reads a program's output until it ends.
fn talk(
    job: &mut Job,
    limit: Duration,
    stdout: &mut Sink,
    stderr: &mut Sink,
) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    let mut pipes = job.communicate()?.limit_time(limit);
    pipes.read_to(stdout, stderr)?;
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(job.wait_timeout(left)?.ok_or(ErrorKind::TimedOut)?)
}

/// Collects a program's output.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len() + part.len() > OUTPUT_LIMIT {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.0.extend(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Kills a program and its children; returns whether it has ended.
fn kill(job: &Job) -> bool {
    // It is no error if the signal reaches no process: then they have ended.
    let _ = job.send_signal_group(SIGKILL);
    matches!(job.wait_timeout(GRACE), Ok(Some(_)))
}

#[cfg(test)]
mod tests;
