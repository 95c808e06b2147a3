//! A session with the server.

mod settings;
mod tls;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{AsyncMessage, Client, Config, Notification};

use self::settings::{Settings, Surroundings};
use crate::failure::{Failure, said};

/// Where the server is. What is not given is taken from the service file, the PG… variables, the password file and
/// libpq's defaults.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Place {
    /// Database: its name, host=… dbname=… or a postgresql:// URI.
    #[arg(short = 'd', long, global = true, value_name = "NAME|URI")]
    dbname: Option<String>,
    /// Host name, or directory of the server's socket.
    #[arg(short = 'H', long, global = true)]
    host: Option<String>,
    /// Port.
    #[arg(short = 'p', long, global = true)]
    port: Option<u16>,
    /// Role to connect as; a password comes from PGPASSWORD or the password file.
    #[arg(short = 'U', long, global = true, value_name = "ROLE")]
    username: Option<String>,
    /// Section of the service file.
    #[arg(long, global = true)]
    service: Option<String>,
}

/// The process's environment and the file system.
struct Machine;

impl Surroundings for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
    fn file(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }
}

/// A session, and what the server sends in between.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// What was notified since; closed when the connection is lost.
    pub(crate) notifications: mpsc::UnboundedReceiver<Notification>,
}

impl Place {
    fn settings(&self) -> Result<Settings, Failure> {
        let mut given = self.dbname.as_deref().map_or_else(|| Ok(Settings::new()), settings::parse)?;
        for (keyword, value) in [
            ("host", self.host.clone()),
            ("port", self.port.map(|port| port.to_string())),
            ("user", self.username.clone()),
            ("service", self.service.clone()),
        ] {
            if let Some(value) = value {
                given.insert(keyword.to_owned(), value);
            }
        }
        settings::complete(given, &Machine)
    }

    /// Connects to any database.
    pub(crate) async fn connect(&self) -> Result<Session, Failure> {
        let settings = self.settings()?;
        let config = config(&settings)?;
        let connector = tls::connector(&settings)?;
        let (client, mut connection) = config
            .connect(connector)
            .await
            .map_err(|error| Failure::Connection { hint: hint(&error), message: said(&error) })?;
        let (sender, notifications) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut next = std::future::poll_fn(|context| connection.poll_message(context)).await;
            while let Some(Ok(message)) = next {
                match message {
                    AsyncMessage::Notice(notice) if matches!(notice.severity(), "WARNING" | "ERROR") => {
                        eprintln!("{}: {}", notice.severity().to_lowercase(), notice.message());
                        if let Some(hint) = notice.hint() {
                            eprintln!("hint: {hint}");
                        }
                    }
                    // Nobody may be listening; then it is only dropped.
                    AsyncMessage::Notification(notification) => drop(sender.send(notification)),
                    _ => {}
                }
                next = std::future::poll_fn(|context| connection.poll_message(context)).await;
            }
        });
        client.batch_execute("SET search_path = pg_catalog").await?;
        Ok(Session { client, notifications })
    }

    /// Connects to a database that has the extension, whose functions are then found without their schema.
    pub(crate) async fn open(&self) -> Result<Session, Failure> {
        let session = self.connect().await?;
        let row = session
            .client
            .query_one(
                "SELECT current_database()::text,
                        (SELECT n.nspname::text FROM pg_catalog.pg_extension e
                           JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'ruvector'),
                        EXISTS (SELECT FROM pg_catalog.pg_extension e
                                  JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
                                   AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                  JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relname = 'healing_outcomes'
                                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'ruvector'
                                 WHERE e.extname = 'ruvector')",
                &[],
            )
            .await?;
        let (database, schema, ours): (String, Option<String>, bool) = (row.get(0), row.get(1), row.get(2));
        let Some(schema) = schema else {
            return Err(Failure::NoExtension {
                message: format!("database {database} has no extension ruvector"),
                hint: "CREATE EXTENSION ruvector CASCADE; or name another database with -d. `ruvectorctl doctor` says what is missing.".into(),
            });
        };
        if !ours {
            return Err(Failure::NoExtension {
                message: format!(
                    "the extension ruvector of database {database} is another one of the same name"
                ),
                hint: "It has none of this one's tables. `ruvectorctl doctor` shows which it is.".into(),
            });
        }
        session
            .client
            .execute(
                "SELECT pg_catalog.set_config('search_path', pg_catalog.format('pg_catalog, %I', $1::text), false)",
                &[&schema],
            )
            .await?;
        Ok(session)
    }
}

impl Session {
    /// Rows of a query, each as a JSON object.
    pub(crate) async fn rows(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Value>, Failure> {
        let query = format!("SELECT pg_catalog.to_jsonb(q) FROM ({query}) q");
        let rows = self.client.query(&query, parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The oid of a table that a person names, found as their own session would: ours has a `search_path` of its own.
    pub(crate) async fn relation(&self, name: &str) -> Result<u32, Failure> {
        self.as_user("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[&name]).await?.ok_or_else(|| {
            Failure::usage(
                format!("there is no table {name}"),
                "Name it as psql would find it, with its schema if that is not in the search_path; `ruvectorctl discover` \
                 lists the tables with vectors."
                    .to_owned(),
            )
        })
    }

    /// The schema where new tables of this role go.
    pub(crate) async fn home(&self) -> Result<String, Failure> {
        self.as_user("SELECT pg_catalog.current_schema()::text", &[]).await?.ok_or_else(|| {
            Failure::usage(
                "no schema of the search_path exists".to_owned(),
                "Name one with --schema.".to_owned(),
            )
        })
    }

    /// The value of a query that is run with the role's own `search_path`; it must name all it calls with its schema.
    async fn as_user<T: for<'a> FromSql<'a>>(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>, Failure> {
        let path: String =
            self.client.query_one("SELECT pg_catalog.current_setting('search_path')", &[]).await?.get(0);
        self.client.batch_execute("RESET search_path").await?;
        let found = self.client.query_one(query, parameters).await;
        self.client.execute("SELECT pg_catalog.set_config('search_path', $1, false)", &[&path]).await?;
        Ok(found?.get(0))
    }

    /// The only row of a query.
    pub(crate) async fn row(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Value, Failure> {
        Ok(self.rows(query, parameters).await?.pop().unwrap_or_default())
    }
}

/// Splits a list of hosts or ports.
fn list<'a>(settings: &'a Settings, keyword: &str) -> Vec<&'a str> {
    settings.get(keyword).map(|value| value.split(',').collect()).unwrap_or_default()
}

fn invalid(keyword: &str, value: &str, valid: &str) -> Failure {
    Failure::usage(
        format!("\"{value}\" is not valid for connection setting \"{keyword}\""),
        format!("Valid: {valid}."),
    )
}

fn config(settings: &Settings) -> Result<Config, Failure> {
    let mut config = Config::new();
    let seconds = |keyword: &str, value: &str| {
        value
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| invalid(keyword, value, "a whole number of seconds"))
    };
    let ports = list(settings, "port");
    let first_port: u16 = match ports.first().filter(|port| !port.is_empty()) {
        Some(port) => port.parse().map_err(|_| invalid("port", port, "1 to 65535"))?,
        None => DEFAULT_PORT,
    };
    let (hosts, addresses) = (list(settings, "host"), list(settings, "hostaddr"));
    if hosts.is_empty() && addresses.is_empty() {
        config.host(default_host(first_port));
    }
    for host in hosts {
        config.host(if host.is_empty() { default_host(first_port) } else { host });
    }
    for address in addresses {
        config
            .hostaddr(address.parse::<IpAddr>().map_err(|_| invalid("hostaddr", address, "an IP address"))?);
    }
    for port in ports {
        let port = if port.is_empty() { Ok(DEFAULT_PORT) } else { port.parse() };
        config.port(
            port.map_err(|_| invalid("port", settings.get("port").map_or("", String::as_str), "1 to 65535"))?,
        );
    }
    // A server that does not answer must not keep us for ever, as it would psql.
    config.connect_timeout(CONNECT_TIMEOUT);
    config.application_name("ruvectorctl");
    for (keyword, value) in settings {
        match keyword.as_str() {
            "dbname" => drop(config.dbname(value)),
            "user" => drop(config.user(value)),
            "options" => drop(config.options(value)),
            "application_name" => drop(config.application_name(value)),
            // 0 means for ever in libpq.
            "connect_timeout" if value != "0" => drop(config.connect_timeout(seconds(keyword, value)?)),
            "keepalives" => drop(config.keepalives(value != "0")),
            "keepalives_idle" => drop(config.keepalives_idle(seconds(keyword, value)?)),
            "keepalives_interval" => drop(config.keepalives_interval(seconds(keyword, value)?)),
            "keepalives_count" => {
                let count = value.parse().map_err(|_| invalid(keyword, value, "a whole number"))?;
                config.keepalives_retries(count);
            }
            "tcp_user_timeout" => {
                let milliseconds = value.parse().map_err(|_| invalid(keyword, value, "milliseconds"))?;
                config.tcp_user_timeout(Duration::from_millis(milliseconds));
            }
            "sslnegotiation" => drop(config.ssl_negotiation(match value.as_str() {
                "postgres" => SslNegotiation::Postgres,
                "direct" => SslNegotiation::Direct,
                _ => return Err(invalid(keyword, value, "postgres, direct")),
            })),
            "channel_binding" => drop(config.channel_binding(match value.as_str() {
                "disable" => ChannelBinding::Disable,
                "prefer" => ChannelBinding::Prefer,
                "require" => ChannelBinding::Require,
                _ => return Err(invalid(keyword, value, "disable, prefer, require")),
            })),
            "target_session_attrs" => drop(config.target_session_attrs(match value.as_str() {
                "any" => TargetSessionAttrs::Any,
                "read-write" | "primary" => TargetSessionAttrs::ReadWrite,
                "read-only" | "standby" => TargetSessionAttrs::ReadOnly,
                _ => return Err(invalid(keyword, value, "any, read-write, read-only")),
            })),
            "load_balance_hosts" => drop(config.load_balance_hosts(match value.as_str() {
                "disable" => LoadBalanceHosts::Disable,
                "random" => LoadBalanceHosts::Random,
                _ => return Err(invalid(keyword, value, "disable, random")),
            })),
            _ => {}
        }
    }
    config.ssl_mode(match settings.get("sslmode").map_or("prefer", String::as_str) {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        _ => SslMode::Require,
    });
    if let Some(password) =
        settings.get("password").cloned().or_else(|| password_from_file(settings, &config))
    {
        config.password(password);
    }
    Ok(config)
}

/// libpq's own.
const DEFAULT_PORT: u16 = 5432;
/// Time for one connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where servers put their sockets: Debian's and others' packages, and PostgreSQL built from source.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

fn default_host(port: u16) -> &'static str {
    let there = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_DIRECTORIES.iter().find(there).unwrap_or(&"localhost")
}

fn password_from_file(settings: &Settings, config: &Config) -> Option<String> {
    let path = match settings.get("passfile") {
        Some(path) => path.clone(),
        None => format!("{}/.pgpass", Machine.variable("HOME")?),
    };
    if is_open_to_others(Path::new(&path)) {
        eprintln!("warning: the password file {path} is open to others and not used: chmod 600 {path}");
        return None;
    }
    let text = Machine.file(&path)?;
    let user = config.get_user().map(str::to_owned).or_else(|| Machine.variable("USER"))?;
    let database = config.get_dbname().unwrap_or(&user).to_owned();
    let host =
        list(settings, "host").first().copied().filter(|host| !host.is_empty() && !host.starts_with('/'));
    let port =
        list(settings, "port").first().copied().filter(|port| !port.is_empty()).unwrap_or("5432").to_owned();
    settings::password_in(&text, [host.unwrap_or("localhost"), &port, &database, &user])
}

fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o077 != 0)
}

fn hint(error: &tokio_postgres::Error) -> String {
    let text = said(error);
    if text.contains("password missing") {
        "Set PGPASSWORD or write the password into ~/.pgpass.".into()
    } else if text.contains("invalid peer certificate") {
        "Name the certificate of the authority with sslrootcert=FILE, and the host as the certificate does."
            .into()
    } else if error.as_db_error().is_some() {
        "Check database and role: -d, -U, PGDATABASE, PGUSER.".into()
    } else {
        "Check host and port: -H, -p, PGHOST, PGPORT or --service; is the server running?".into()
    }
}
