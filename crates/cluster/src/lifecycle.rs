//! A cluster's life: starting, stopping, killing, opening again.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postgres::{Client, Config, NoTls};
use rustix::process::Signal;

use crate::account::Account;
use crate::watchdog::Watchdog;
use crate::{Builder, ClusterError, Installation, Process, Version, process, wait_for};

/// From launch to the first connection: includes recovery after a crash, on a slow and busy machine.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// From the signal to the end: a fast shutdown writes a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// After the postmaster was killed, its children see that within one wake-up, but a busy one only when it is done.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of the server's log which an error shows.
const LOG_TAIL_LINES: usize = 20;

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for all sessions to end (SIGTERM).
    Smart,
    /// Ends sessions, writes a checkpoint (SIGINT).
    Fast,
    /// At once, as in a crash: the next start recovers (SIGQUIT).
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// A running or stopped PostgreSQL cluster. All methods may be called from several threads.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    account: Account,
    pub(crate) layout: Layout,
    postmaster: Mutex<Postmaster>,
    /// Of a throw-away cluster; a lasting one has none.
    watchdog: Option<Watchdog>,
}

/// The server's first process, as far as it is known to run.
#[derive(Debug, Default)]
struct Postmaster {
    pid: Option<i32>,
    /// To collect its end, where it was started by this value.
    child: Option<Child>,
}

impl Cluster {
    /// Describes a new cluster; [`Builder::start`] or [`Builder::create_at`] makes it.
    pub fn builder(version: Version) -> Builder {
        Builder::new(version)
    }

    /// Opens a cluster that [`Builder::create_at`] made, whether its server runs or not ([`restart`](Self::restart)
    /// starts it). It is not stopped when the value is dropped.
    ///
    /// # Errors
    /// [`ClusterError::NotACluster`], or another when its version is no longer set up or it is someone else's.
    pub fn open_at(directory: impl AsRef<Path>) -> Result<Self, ClusterError> {
        let directory = directory.as_ref();
        let not_a_cluster = |reason| ClusterError::NotACluster { directory: directory.to_owned(), reason };
        let directory = directory.canonicalize().map_err(|error| not_a_cluster(error.to_string()))?;
        let layout = Layout::load(&directory)?;
        let version = fs::read_to_string(layout.data.join("PG_VERSION")).unwrap_or_default();
        let version = version.trim().parse().ok().and_then(Version::from_major);
        let version =
            version.ok_or_else(|| not_a_cluster("its data directory names no supported version".into()))?;
        let installation = Installation::find(version)?;
        let account =
            Account::of_owner(&layout.data, &[&installation.program("postgres"), &layout.directory])?;
        let cluster = Self::assemble(installation, account, layout, None);
        cluster.lock().pid = cluster.recorded_pid();
        Ok(cluster)
    }

    pub(crate) fn assemble(
        installation: Installation,
        account: Account,
        layout: Layout,
        watchdog: Option<Watchdog>,
    ) -> Self {
        Self { installation, account, layout, postmaster: Mutex::default(), watchdog }
    }

    /// The PostgreSQL it runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Its data directory.
    pub fn data_directory(&self) -> &Path {
        &self.layout.data
    }

    /// The directory of its socket: a client's `host`.
    pub fn socket_directory(&self) -> &Path {
        &self.layout.sockets
    }

    /// The port: of TCP where it listens there, in any case in the socket's name.
    pub fn port(&self) -> u16 {
        self.layout.port
    }

    /// What the server has written to its log since the cluster was made.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.layout.log).unwrap_or_default()).into_owned()
    }

    /// Connects as the superuser `postgres`.
    ///
    /// # Errors
    /// [`ClusterError::Sql`] with the server's reason.
    pub fn connect(&self, database: &str) -> Result<Client, ClusterError> {
        self.connect_as("postgres", database)
    }

    /// Connects as a role.
    ///
    /// # Errors
    /// [`ClusterError::Sql`] with the server's reason.
    pub fn connect_as(&self, user: &str, database: &str) -> Result<Client, ClusterError> {
        self.try_connect(user, database)
            .map_err(ClusterError::sql(format!("cannot connect as {user} to {database}")))
    }

    fn try_connect(&self, user: &str, database: &str) -> Result<Client, postgres::Error> {
        Config::new()
            .host_path(&self.layout.sockets)
            .port(self.layout.port)
            .user(user)
            .dbname(database)
            .connect_timeout(CONNECT_TIMEOUT)
            .connect(NoTls)
    }

    /// A connection URI for a database, understood by `psql` and the crate `postgres`: by TCP where it listens, else
    /// by its socket.
    pub fn uri(&self, database: &str) -> String {
        let database = percent_encoded(database);
        let port = self.layout.port;
        if self.layout.tcp {
            format!("postgresql://postgres@127.0.0.1:{port}/{database}")
        } else {
            let host = percent_encoded(&self.layout.sockets.to_string_lossy());
            format!("postgresql:///{database}?host={host}&port={port}&user=postgres")
        }
    }

    /// A command for a program that works on the data directory, such as `pg_upgrade` or `pg_controldata`, as the account that
    /// owns it.
    pub fn server_command(&self, program: &str) -> Command {
        self.account.command(&self.installation, program)
    }

    /// A command for a client program, such as `psql` or `pgbench`, that connects to a database of this cluster as
    /// `postgres` unless its arguments say otherwise.
    pub fn client_command(&self, program: &str, database: &str) -> Command {
        let mut command = self.installation.command(program);
        command
            .env("PGHOST", &self.layout.sockets)
            .env("PGPORT", self.layout.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database);
        command
    }

    /// The postmaster's process id, if it runs.
    pub fn postmaster_pid(&self) -> Option<i32> {
        let mut postmaster = self.lock();
        let pid = postmaster.pid?;
        let ended = match &mut postmaster.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !process::is_server(pid, &self.layout.data),
        };
        if ended {
            *postmaster = Postmaster::default();
        }
        postmaster.pid
    }

    /// All its server processes by process id, also such as have outlived a killed postmaster.
    pub fn processes(&self) -> Vec<Process> {
        process::servers(&self.layout.data)
    }

    /// Sends a signal to the postmaster or to a child of it. SIGKILL of any child makes the postmaster restart all of
    /// them, as PostgreSQL does after every crash.
    ///
    /// # Errors
    /// [`ClusterError::ForeignProcess`] for any other process, which stays as it is; [`ClusterError::NotRunning`].
    pub fn kill(&self, pid: i32, signal: Signal) -> Result<(), ClusterError> {
        process::signal_member(pid, self.running_pid()?, signal)
    }

    /// Lets a child of the postmaster write no file beyond this size, in bytes: further writes fail as they would on a
    /// full disk (PostgreSQL ignores SIGXFSZ).
    ///
    /// # Errors
    /// [`ClusterError::ForeignProcess`] for any other process; [`ClusterError::NotRunning`].
    pub fn limit_file_size(&self, pid: i32, bytes: u64) -> Result<(), ClusterError> {
        if process::parent(pid) != Some(self.running_pid()?) {
            return Err(ClusterError::ForeignProcess {
                pid,
                reason: "it is no child of this cluster's postmaster",
            });
        }
        // Only the process's own account may do it, not even root everywhere.
        let failed = |source| ClusterError::Program { program: "prlimit".into(), source };
        let mut command = self.account.run("prlimit".as_ref());
        let status = command
            .args(["--pid", &pid.to_string(), &format!("--fsize={bytes}")])
            .status()
            .map_err(failed)?;
        if status.success() { Ok(()) } else { Err(failed(std::io::Error::other(status.to_string()))) }
    }

    /// Kills the postmaster with SIGKILL and waits for its end. Its children notice and end by themselves.
    ///
    /// # Errors
    /// [`ClusterError::NotRunning`].
    pub fn kill_postmaster(&self) -> Result<(), ClusterError> {
        let pid = self.running_pid()?;
        process::signal_member(pid, pid, Signal::KILL)?;
        self.wait_postmaster_gone()
    }

    /// Stops the server; the directory stays. Does nothing when it is not running.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] when it does not end, as in [`StopMode::Smart`] with open sessions.
    pub fn stop(&self, mode: StopMode) -> Result<(), ClusterError> {
        let Some(pid) = self.postmaster_pid() else { return Ok(()) };
        process::signal_member(pid, pid, mode.signal())?;
        self.wait_postmaster_gone()
    }

    /// Starts the server anew, from whatever state: running (stopped fast before), stopped, or killed, in which case
    /// the orphans of the former one are waited for. Returns when it accepts connections.
    ///
    /// # Errors
    /// As [`wait_ready`](Self::wait_ready).
    pub fn restart(&self) -> Result<(), ClusterError> {
        self.stop(StopMode::Fast)?;
        wait_for("the former server's processes to end", ORPHANS_TIMEOUT, || {
            self.processes().is_empty().then_some(())
        })?;
        self.launch()?;
        self.wait_ready(READY_TIMEOUT)
    }

    /// Waits until a statement is answered, through starts, recovery and crash restarts.
    ///
    /// # Errors
    /// [`ClusterError::Ended`] when the server ends meanwhile, [`ClusterError::NotReady`] when the time is up.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), ClusterError> {
        let mut reason = String::new();
        let answered = wait_for("a connection", timeout, || {
            if self.postmaster_pid().is_none() {
                return Some(Err(ClusterError::Ended { log: self.log_tail() }));
            }
            let answer = self
                .try_connect("postgres", "postgres")
                .and_then(|mut client| client.simple_query("SELECT 1"));
            match answer {
                Ok(_) => Some(Ok(())),
                Err(error) => {
                    reason = error.to_string();
                    None
                }
            }
        });
        answered.unwrap_or_else(|_| Err(ClusterError::NotReady { timeout, reason, log: self.log_tail() }))
    }

    /// Stops the server at once and removes the directory: for a lasting cluster; a throw-away one needs it not.
    ///
    /// # Errors
    /// When the server does not end; its directory stays then.
    pub fn destroy(self) -> Result<(), ClusterError> {
        self.stop(StopMode::Immediate)?;
        wait_for("the server's processes to end", ORPHANS_TIMEOUT, || {
            self.processes().is_empty().then_some(())
        })?;
        if self.watchdog.is_none() {
            self.layout.remove_content();
            let directory = &self.layout.directory;
            fs::remove_dir(directory).map_err(ClusterError::file("remove", directory))?;
        }
        Ok(())
    }

    /// Starts the postmaster without waiting for it to be ready.
    pub(crate) fn launch(&self) -> Result<(), ClusterError> {
        let layout = &self.layout;
        if !layout.sockets.exists() {
            // That of a lasting cluster with a long name is among the temporary files, which a reboot clears.
            let made = DirBuilder::new().mode(0o700).create(&layout.sockets);
            made.map_err(ClusterError::file("create", &layout.sockets))?;
            self.account.give(&layout.sockets)?;
        }
        let log = File::options().create(true).append(true).open(&layout.log);
        let log = log.map_err(ClusterError::file("write", &layout.log))?;
        let errors = log.try_clone().map_err(ClusterError::file("write", &layout.log))?;
        let mut command = self.account.command(&self.installation, "postgres");
        command.arg("-D").arg(&layout.data);
        // A session of its own: neither an interrupt at the owner's terminal nor its closing reaches the server.
        let mut in_session = Command::new("setsid");
        in_session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => in_session.env(name, value),
                None => in_session.env_remove(name),
            };
        }
        let child = in_session
            .current_dir("/") // the caller's may be closed to the server's account
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| ClusterError::Program { program: "setsid".into(), source })?;
        *self.lock() = Postmaster { pid: i32::try_from(child.id()).ok(), child: Some(child) };
        Ok(())
    }

    /// For a start that failed half-way.
    pub(crate) fn kill_if_running(&self) {
        let _ = self.stop(StopMode::Immediate);
    }

    fn running_pid(&self) -> Result<i32, ClusterError> {
        self.postmaster_pid().ok_or_else(|| ClusterError::NotRunning { data: self.layout.data.clone() })
    }

    fn wait_postmaster_gone(&self) -> Result<(), ClusterError> {
        wait_for("the postmaster to end", STOP_TIMEOUT, || self.postmaster_pid().is_none().then_some(()))?;
        Ok(())
    }

    /// The running postmaster's process id by its lock file.
    fn recorded_pid(&self) -> Option<i32> {
        let lock_file = fs::read_to_string(self.layout.data.join("postmaster.pid")).ok()?;
        let pid = lock_file.lines().next()?.trim().parse().ok()?;
        process::is_server(pid, &self.layout.data).then_some(pid)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Postmaster> {
        // What it guards is whole at any moment, so a panic elsewhere does not spoil it.
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(watchdog) = self.watchdog.take() else { return };
        drop(watchdog);
        if let Some(child) = &mut self.lock().child {
            // Not yet in its data directory, it would have escaped the watchdog's eye.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where a cluster's parts are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) directory: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) sockets: PathBuf,
    pub(crate) port: u16,
    pub(crate) tcp: bool,
}

/// The file by which [`Cluster::open_at`] finds a cluster again, lines of `name=value`.
const FACTS_FILE: &str = "cluster";

impl Layout {
    pub(crate) fn new(directory: PathBuf, sockets: PathBuf, port: u16, tcp: bool) -> Self {
        Self { data: directory.join("data"), log: directory.join("log"), directory, sockets, port, tcp }
    }

    pub(crate) fn save(&self) -> Result<(), ClusterError> {
        let path = self.directory.join(FACTS_FILE);
        let text = format!("port={}\ntcp={}\nsockets={}\n", self.port, self.tcp, self.sockets.display());
        fs::write(&path, text).map_err(ClusterError::file("write", &path))
    }

    fn load(directory: &Path) -> Result<Self, ClusterError> {
        let not_a_cluster =
            |reason: String| ClusterError::NotACluster { directory: directory.to_owned(), reason };
        let path = directory.join(FACTS_FILE);
        let text = fs::read_to_string(&path)
            .map_err(|error| not_a_cluster(format!("{}: {error}", path.display())))?;
        let fact = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.ok_or_else(|| not_a_cluster(format!("{} has no line {name}=", path.display())))
        };
        let port = fact("port")?.parse().map_err(|error| not_a_cluster(format!("port: {error}")))?;
        let tcp = fact("tcp")? == "true";
        Ok(Self::new(directory.to_owned(), PathBuf::from(fact("sockets")?), port, tcp))
    }

    /// Removes what this crate has put into the directory of a lasting cluster.
    pub(crate) fn remove_content(&self) {
        let _ = fs::remove_dir_all(&self.data);
        let _ = fs::remove_file(&self.log);
        let _ = fs::remove_file(self.directory.join(FACTS_FILE));
        if self.sockets != self.directory {
            let _ = fs::remove_dir_all(&self.sockets);
        }
    }
}

/// Keeps what needs no escape in a URI's path or query.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
