//! A connection of our own to another server, through the libpq that postgres_fdw is linked with.
//!
//! A connection of postgres_fdw's cannot prepare a transaction, and `dblink` of PostgreSQL 15 waits deaf to interrupts. Each
//! PostgreSQL brings a libpq under a name of its own, so nothing is linked: the functions are looked up in the library that
//! postgres_fdw was loaded with (docs/decisions/0011). Whoever waits here waits for its latch too, answers interrupts, and
//! gives up at a moment of its own. Only the first look-up of a host name is libpq's and bound by the resolver; `hostaddr` avoids it.
//!
//! Credentials are those of a user mapping of the table's owner, and only as far as postgres_fdw itself would take them. They are
//! in no error, no log and no table of ours.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use healing::snapshot::Oid;
use pgrx::prelude::*;
use serde::Deserialize;

use crate::error::Error;
use crate::kept;

/// Longest wait at a stretch: the latch may have been set, and taken back, by somebody else.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// What the other server ends by itself when we are gone: a statement, and a transaction that nobody goes on with.
const STATEMENT_MAX_MS: u32 = 5000;
const IDLE_MAX_MS: u32 = 10_000;
/// A lock there is waited for less long than a statement.
const LOCK_MAX_MS: u32 = 500;

type Conn = *mut c_void;
type Answer = *mut c_void;
type Notices = unsafe extern "C" fn(*mut c_void, *const c_char);

/// One of libpq's parameters, `PQconninfoOption`.
#[repr(C)]
struct Keyword {
    keyword: *const c_char,
    envvar: *const c_char,
    compiled: *const c_char,
    val: *const c_char,
    label: *const c_char,
    dispchar: *const c_char,
    dispsize: c_int,
}

macro_rules! functions {
    ($($name:ident: $symbol:literal = fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        /// The functions of libpq that are used here.
        struct Libpq { $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+ }

        impl Libpq {
            fn look_up(library: *mut c_void) -> Result<Libpq, Error> {
                let symbol = |name: &'static CStr| {
                    // SAFETY: a handle of dlopen, by which what the library is linked with is searched too.
                    let found = unsafe { pg_sys::lookup_external_function(library, name.as_ptr()) };
                    (!found.is_null()).then_some(found).ok_or_else(|| {
                        Error::refused(format!("the libpq of postgres_fdw has no {}", name.to_string_lossy()))
                    })
                };
                // SAFETY: the types are those of libpq-fe.h, the same in every libpq 5.
                Ok(Libpq { $($name: unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(symbol($symbol)?)
                },)+ })
            }
        }
    };
}

functions! {
    start: c"PQconnectStartParams" = fn(*const *const c_char, *const *const c_char, c_int) -> Conn;
    poll: c"PQconnectPoll" = fn(Conn) -> c_int;
    status: c"PQstatus" = fn(Conn) -> c_int;
    socket: c"PQsocket" = fn(Conn) -> c_int;
    address: c"PQhostaddr" = fn(Conn) -> *const c_char;
    finish: c"PQfinish" = fn(Conn);
    error_message: c"PQerrorMessage" = fn(Conn) -> *const c_char;
    used_password: c"PQconnectionUsedPassword" = fn(Conn) -> c_int;
    set_nonblocking: c"PQsetnonblocking" = fn(Conn, c_int) -> c_int;
    set_notices: c"PQsetNoticeProcessor" = fn(Conn, Notices, *mut c_void) -> *mut c_void;
    send: c"PQsendQueryParams" = fn(Conn, *const c_char, c_int, *const u32, *const *const c_char, *const c_int, *const c_int, c_int) -> c_int;
    flush: c"PQflush" = fn(Conn) -> c_int;
    consume: c"PQconsumeInput" = fn(Conn) -> c_int;
    is_busy: c"PQisBusy" = fn(Conn) -> c_int;
    next: c"PQgetResult" = fn(Conn) -> Answer;
    result_status: c"PQresultStatus" = fn(Answer) -> c_int;
    error_field: c"PQresultErrorField" = fn(Answer, c_int) -> *const c_char;
    rows: c"PQntuples" = fn(Answer) -> c_int;
    columns: c"PQnfields" = fn(Answer) -> c_int;
    value: c"PQgetvalue" = fn(Answer, c_int, c_int) -> *const c_char;
    is_null: c"PQgetisnull" = fn(Answer, c_int, c_int) -> c_int;
    clear: c"PQclear" = fn(Answer);
    keywords: c"PQconndefaults" = fn() -> *mut Keyword;
    free_keywords: c"PQconninfoFree" = fn(*mut Keyword);
}

// Of libpq-fe.h and postgres_ext.h.
const CONNECTION_OK: c_int = 0;
const POLLING_FAILED: c_int = 0;
const POLLING_READING: c_int = 1;
const POLLING_OK: c_int = 3;
const COMMAND_OK: c_int = 1;
const TUPLES_OK: c_int = 2;
const DIAG_SQLSTATE: c_int = b'C' as c_int;
const DIAG_MESSAGE: c_int = b'M' as c_int;

/// libpq, loaded with postgres_fdw at the first use.
fn libpq() -> Result<&'static Libpq, Error> {
    static LIBPQ: OnceLock<Libpq> = OnceLock::new();
    if let Some(libpq) = LIBPQ.get() {
        return Ok(libpq);
    }
    let mut library = std::ptr::null_mut();
    // SAFETY: constant names; raises where the library is not installed, and never unloads it.
    unsafe {
        pg_sys::load_external_function(
            c"$libdir/postgres_fdw".as_ptr(),
            c"postgres_fdw_handler".as_ptr(),
            true,
            &mut library,
        );
    }
    let found = Libpq::look_up(library)?;
    Ok(LIBPQ.get_or_init(|| found))
}

/// Why another server did not do what it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    /// Of an ERROR there; None where it did not answer.
    pub(crate) sqlstate: Option<String>,
    /// The message's first part: neither detail nor values.
    pub(crate) message: String,
}

impl Failed {
    fn unanswered(message: impl Into<String>) -> Self {
        Failed { sqlstate: None, message: message.into() }
    }

    /// Whether the server is there and said no.
    pub(crate) fn is_answer(&self) -> bool {
        self.sqlstate.is_some()
    }
}

/// How a server is to be connected to. Holds a password: no Debug, no Display, no Serialize.
pub(crate) struct Credentials {
    libpq: &'static Libpq,
    parameters: Vec<(CString, CString)>,
    /// The owner is no superuser: a connection that asked for no password would be made with what the server's own account may.
    password_required: bool,
}

#[derive(Deserialize)]
struct Stored {
    is_postgres_fdw: bool,
    server: HashMap<String, String>,
    is_mapped: bool,
    mapping: HashMap<String, String>,
    is_superuser: bool,
}

/// `$1` the foreign server, `$2` the owner of the table. The owner's own mapping holds before that of PUBLIC.
const STORED: &str = "
SELECT jsonb_build_object(
    'is_postgres_fdw', EXISTS (SELECT FROM pg_foreign_data_wrapper w JOIN pg_proc h ON h.oid = w.fdwhandler
                                WHERE w.oid = s.srvfdw AND h.probin = '$libdir/postgres_fdw'),
    'server', coalesce((SELECT jsonb_object_agg(o.option_name, coalesce(o.option_value, '')) FROM pg_options_to_table(s.srvoptions) o), '{}'),
    'is_mapped', m.umserver IS NOT NULL,
    'mapping', coalesce((SELECT jsonb_object_agg(o.option_name, coalesce(o.option_value, '')) FROM pg_options_to_table(m.umoptions) o), '{}'),
    'is_superuser', (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = $2))
  FROM pg_foreign_server s
  LEFT JOIN LATERAL (SELECT u.umserver, u.umoptions FROM pg_user_mapping u WHERE u.umserver = s.oid AND u.umuser IN ($2, 0)
                      ORDER BY u.umuser DESC LIMIT 1) m ON true
 WHERE s.oid = $1";

impl Credentials {
    /// Connects to the address of this connection from now on, where the server is given by a name: libpq resolves names deaf to
    /// interrupts, for as long as the resolver takes.
    pub(crate) fn keep_address(&mut self, connection: &Connection) {
        let given = |keyword: &CStr| self.parameters.iter().find(|(name, _)| name.as_c_str() == keyword);
        let named = given(c"host").is_some_and(|(_, host)| {
            let host = host.to_bytes();
            !host.is_empty() && !host.starts_with(b"/") && !host.starts_with(b"@") && !host.contains(&b',')
        });
        let address = connection.address();
        if named && given(c"hostaddr").is_none() && !address.is_empty() {
            self.parameters.push((c"hostaddr".to_owned(), address));
        }
    }
}

/// The credentials of a table's owner for a foreign server, or why there are none. Must run in a transaction.
pub(crate) fn credentials(server: Oid, owner: pg_sys::Oid) -> Result<Result<Credentials, String>, Error> {
    let stored: Option<Stored> =
        kept::documents(STORED, &[pg_sys::Oid::from(server).into(), owner.into()])?.pop();
    let Some(stored) = stored else { return Ok(Err("the foreign server was dropped".to_owned())) };
    if !stored.is_postgres_fdw {
        return Ok(Err("only servers of postgres_fdw are looked at".to_owned()));
    }
    if !stored.is_mapped {
        return Ok(Err("the table's owner has no user mapping for it".to_owned()));
    }
    // As `UserMappingPasswordRequired` of postgres_fdw; only a superuser may set it.
    let exempt = stored
        .mapping
        .get("password_required")
        .is_some_and(|value| ["false", "off", "0"].contains(&value.to_lowercase().as_str()));
    let password_required = !stored.is_superuser && !exempt;
    if password_required && stored.mapping.get("password").is_none_or(String::is_empty) {
        return Ok(Err(
            "its user mapping has no password, which an owner who is no superuser needs".to_owned()
        ));
    }
    let libpq = libpq()?;
    let known = known_keywords(libpq);
    let mut parameters = vec![(c"fallback_application_name".to_owned(), c"ruvector".to_owned())];
    let given = stored.server.iter().chain(&stored.mapping);
    for (name, value) in given.filter(|(name, _)| known.contains(name) && *name != "client_encoding") {
        match (CString::new(name.as_str()), CString::new(value.as_str())) {
            (Ok(name), Ok(value)) => parameters.push((name, value)),
            _ => return Ok(Err("an option of it holds a zero byte".to_owned())),
        }
    }
    parameters.push((c"client_encoding".to_owned(), c"UTF8".to_owned()));
    Ok(Ok(Credentials { libpq, parameters, password_required }))
}

/// The options of a server and a mapping that are libpq's; the others are postgres_fdw's own.
fn known_keywords(libpq: &Libpq) -> Vec<String> {
    let mut known = Vec::new();
    // SAFETY: an array that ends with an empty keyword, freed as libpq asks.
    unsafe {
        let all = (libpq.keywords)();
        let mut at = all;
        while !at.is_null() && !(*at).keyword.is_null() {
            known.push(CStr::from_ptr((*at).keyword).to_string_lossy().into_owned());
            at = at.add(1);
        }
        if !all.is_null() {
            (libpq.free_keywords)(all);
        }
    }
    known
}

/// Notices of other servers belong into no log of this one.
unsafe extern "C" fn ignore(_: *mut c_void, _: *const c_char) {}

/// A connection, closed when it is dropped. What is open there then is rolled back.
pub(crate) struct Connection {
    libpq: &'static Libpq,
    conn: Conn,
    is_broken: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: closed once; in non-blocking mode nothing is waited for.
        unsafe {
            (self.libpq.finish)(self.conn);
            pg_sys::ReleaseExternalFD();
        }
    }
}

impl Connection {
    /// The network address that it is connected to; empty where it has none.
    fn address(&self) -> CString {
        // SAFETY: a live connection; a string that ends with a zero, or none.
        unsafe {
            let address = (self.libpq.address)(self.conn);
            if address.is_null() { CString::default() } else { CStr::from_ptr(address).to_owned() }
        }
    }

    /// Connects, until this moment at the latest.
    pub(crate) fn open(credentials: &Credentials, until: Instant) -> Result<Connection, Failed> {
        let libpq = credentials.libpq;
        let end = std::ptr::null();
        let names: Vec<*const c_char> =
            credentials.parameters.iter().map(|(name, _)| name.as_ptr()).chain([end]).collect();
        let values: Vec<*const c_char> =
            credentials.parameters.iter().map(|(_, value)| value.as_ptr()).chain([end]).collect();
        // SAFETY: two arrays of the same length, whose strings outlive the call; libpq copies them.
        let mut connection = unsafe {
            if !pg_sys::AcquireExternalFD() {
                return Err(Failed::unanswered("this process has too many files open"));
            }
            let conn = (libpq.start)(names.as_ptr(), values.as_ptr(), 0);
            if conn.is_null() {
                pg_sys::ReleaseExternalFD();
                return Err(Failed::unanswered("out of memory"));
            }
            (libpq.set_notices)(conn, ignore, std::ptr::null_mut());
            Connection { libpq, conn, is_broken: false }
        };
        // SAFETY: a live connection, here and below.
        if unsafe { (libpq.status)(connection.conn) } != CONNECTION_OK {
            connection.make(until)?;
        }
        // SAFETY: as above.
        if credentials.password_required && unsafe { (libpq.used_password)(connection.conn) } == 0 {
            return Err(Failed::unanswered(
                "it asked for no password, so that its owner, who is no superuser, may not connect",
            ));
        }
        // SAFETY: as above.
        if unsafe { (libpq.set_nonblocking)(connection.conn, 1) } != 0 {
            return Err(connection.lost());
        }
        // As postgres_fdw does, so that values read the same on both sides.
        connection.ask(
            "SELECT set_config('search_path', 'pg_catalog', false), set_config('TimeZone', 'GMT', false),
                    set_config('DateStyle', 'ISO', false), set_config('IntervalStyle', 'postgres', false),
                    set_config('extra_float_digits', '3', false), set_config('default_transaction_isolation', 'read committed', false),
                    set_config('default_transaction_read_only', 'off', false), set_config('statement_timeout', $1, false),
                    set_config('lock_timeout', $2, false), set_config('idle_in_transaction_session_timeout', $3, false)",
            &[
                Some(STATEMENT_MAX_MS.to_string()),
                Some(LOCK_MAX_MS.to_string()),
                Some(IDLE_MAX_MS.to_string()),
            ],
            until,
        )?;
        Ok(connection)
    }

    fn make(&mut self, until: Instant) -> Result<(), Failed> {
        let mut next = POLLING_READING + 1; // at first it is written
        // SAFETY: a live connection.
        if unsafe { (self.libpq.socket)(self.conn) } < 0 {
            return Err(self.lost());
        }
        loop {
            let events = if next == POLLING_READING {
                pg_sys::WL_SOCKET_READABLE
            } else {
                pg_sys::WL_SOCKET_WRITEABLE
            };
            self.wait(events, until)?;
            // SAFETY: a live connection.
            next = unsafe { (self.libpq.poll)(self.conn) };
            match next {
                POLLING_OK => return Ok(()),
                POLLING_FAILED => return Err(self.lost()),
                _ => {}
            }
        }
    }

    /// Whether it can be used no more.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Runs one statement, until this moment at the latest; its rows, of which each value is text.
    pub(crate) fn ask(
        &mut self,
        statement: &str,
        parameters: &[Option<String>],
        until: Instant,
    ) -> Result<Vec<Vec<Option<String>>>, Failed> {
        let zero = |_| Failed::unanswered("a value holds a zero byte");
        let statement = CString::new(statement).map_err(zero)?;
        let texts = parameters
            .iter()
            .map(|text| text.as_deref().map(CString::new).transpose())
            .collect::<Result<Vec<_>, _>>()
            .map_err(zero)?;
        let values: Vec<*const c_char> =
            texts.iter().map(|text| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr())).collect();
        // What does not come to its end leaves the connection in the middle of something.
        self.is_broken = true;
        // SAFETY: as many texts as are said; types are inferred there, and the answer comes as text.
        let sent = unsafe {
            (self.libpq.send)(
                self.conn,
                statement.as_ptr(),
                values.len() as c_int,
                std::ptr::null(),
                values.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                0,
            )
        };
        if sent != 1 {
            return Err(self.lost());
        }
        self.send_all(until)?;
        let mut outcome = Ok(vec![]);
        while let Some(answer) = self.answer(until)? {
            let one = self.read(answer);
            // SAFETY: an answer of this library, read by now.
            unsafe { (self.libpq.clear)(answer) };
            if outcome.is_ok() {
                outcome = one;
            }
        }
        // SAFETY: a live connection.
        self.is_broken = unsafe { (self.libpq.status)(self.conn) } != CONNECTION_OK;
        outcome
    }

    fn send_all(&mut self, until: Instant) -> Result<(), Failed> {
        loop {
            // SAFETY: a live connection.
            match unsafe { (self.libpq.flush)(self.conn) } {
                0 => return Ok(()),
                1 => {
                    let found = self.wait(pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE, until)?;
                    // It may have to be read before it can be written.
                    // SAFETY: as above.
                    if found & pg_sys::WL_SOCKET_READABLE != 0
                        && unsafe { (self.libpq.consume)(self.conn) } != 1
                    {
                        return Err(self.lost());
                    }
                }
                _ => return Err(self.lost()),
            }
        }
    }

    fn answer(&mut self, until: Instant) -> Result<Option<Answer>, Failed> {
        // SAFETY: a live connection.
        while unsafe { (self.libpq.is_busy)(self.conn) } != 0 {
            self.wait(pg_sys::WL_SOCKET_READABLE, until)?;
            // SAFETY: as above.
            if unsafe { (self.libpq.consume)(self.conn) } != 1 {
                return Err(self.lost());
            }
        }
        // SAFETY: as above; it does not wait, since nothing is busy.
        let answer = unsafe { (self.libpq.next)(self.conn) };
        Ok((!answer.is_null()).then_some(answer))
    }

    fn read(&self, answer: Answer) -> Result<Vec<Vec<Option<String>>>, Failed> {
        let libpq = self.libpq;
        // SAFETY: an answer of this library; rows and columns within what it says, strings that end with a zero.
        unsafe {
            match (libpq.result_status)(answer) {
                COMMAND_OK => Ok(vec![]),
                TUPLES_OK => {
                    let (rows, columns) = ((libpq.rows)(answer), (libpq.columns)(answer));
                    let value = |row, column| {
                        let text = || CStr::from_ptr((libpq.value)(answer, row, column)).to_string_lossy();
                        ((libpq.is_null)(answer, row, column) == 0).then(|| text().into_owned())
                    };
                    Ok((0..rows).map(|row| (0..columns).map(|column| value(row, column)).collect()).collect())
                }
                _ => {
                    let field = |code| {
                        let text = (libpq.error_field)(answer, code);
                        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
                    };
                    match (field(DIAG_SQLSTATE), field(DIAG_MESSAGE)) {
                        (Some(sqlstate), Some(message)) => Err(Failed { sqlstate: Some(sqlstate), message }),
                        _ => Err(self.lost()),
                    }
                }
            }
        }
    }

    /// What libpq says of a connection that failed: host, port, user and reason, never a password.
    fn lost(&self) -> Failed {
        // SAFETY: a live connection, whose message lives as long.
        let said = unsafe { CStr::from_ptr((self.libpq.error_message)(self.conn)) };
        let said = said.to_string_lossy().split_whitespace().collect::<Vec<_>>().join(" ");
        Failed::unanswered(if said.is_empty() { "the connection was lost".to_owned() } else { said })
    }

    /// Waits until the socket is ready, for the latch, which interrupts are told by, and for the moment to give up.
    fn wait(&self, events: u32, until: Instant) -> Result<u32, Failed> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failed::unanswered("it did not answer in time"));
            }
            let wanted = events | pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
            // SAFETY: a live connection and this process's own latch.
            let found = unsafe {
                let socket = (self.libpq.socket)(self.conn);
                if socket < 0 {
                    return Err(self.lost());
                }
                pg_sys::WaitLatchOrSocket(
                    pg_sys::MyLatch,
                    wanted as c_int,
                    socket,
                    left.min(WAIT_MAX).as_millis().max(1) as c_long,
                    pg_sys::PG_WAIT_EXTENSION,
                ) as u32
            };
            if found & pg_sys::WL_LATCH_SET != 0 {
                // SAFETY: as in every loop of PostgreSQL's own. Without a transaction there is nothing to cancel.
                unsafe {
                    pg_sys::ResetLatch(pg_sys::MyLatch);
                    if !pg_sys::IsTransactionState() {
                        pg_sys::QueryCancelPending = 0;
                    }
                }
                pgrx::check_for_interrupts!();
            }
            if found & events != 0 {
                return Ok(found & events);
            }
        }
    }
}
