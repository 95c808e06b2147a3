//! Connection settings as libpq understands them: a connection string or URI, a service file, `PG…` variables, defaults.
//! Order of precedence as in libpq: what is given, then the service, then the environment, then the default.

use std::collections::BTreeMap;

use crate::failure::Failure;

/// Keyword and value, by libpq's keywords.
pub(crate) type Settings = BTreeMap<String, String>;

/// libpq's keywords that are understood here, with the variable of each.
pub(crate) const KEYWORDS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
];

/// Keywords that change nothing here: our encoding is always UTF-8, we never compress and never speak GSSAPI.
const IGNORED: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "sslcompression",
    "sslsni",
];

/// Everything outside that settings are read from: the environment and files.
pub(crate) trait Surroundings {
    /// A variable of the environment, unless it is empty.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file; None where there is none.
    fn file(&self, path: &str) -> Option<String>;
}

/// Reads a connection string: `host=… dbname=…`, a `postgresql://` URI, or the bare name of a database.
pub(crate) fn parse(text: &str) -> Result<Settings, Failure> {
    let uri = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    let settings = match uri {
        Some(rest) => parse_uri(rest)?,
        None if text.contains('=') => parse_keywords(text)?,
        None => Settings::from([("dbname".to_owned(), text.to_owned())]),
    };
    checked(settings)
}

/// What is given, completed from service file, environment and home folder.
pub(crate) fn complete(given: Settings, outside: &dyn Surroundings) -> Result<Settings, Failure> {
    let mut settings = given;
    let service = settings.get("service").cloned().or_else(|| outside.variable("PGSERVICE"));
    if let Some(service) = service {
        for (keyword, value) in checked(find_service(&service, outside)?)? {
            settings.entry(keyword).or_insert(value);
        }
    }
    for (keyword, variable) in KEYWORDS {
        if !variable.is_empty()
            && let Some(value) = outside.variable(variable)
        {
            settings.entry((*keyword).to_owned()).or_insert(value);
        }
    }
    Ok(settings)
}

fn checked(settings: Settings) -> Result<Settings, Failure> {
    let mut kept = Settings::new();
    for (keyword, value) in settings {
        if KEYWORDS.iter().any(|(known, _)| *known == keyword) {
            kept.insert(keyword, value);
        } else if !IGNORED.contains(&keyword.as_str()) {
            return Err(Failure::usage(
                format!("connection setting \"{keyword}\" is not supported"),
                format!(
                    "Supported: {}.",
                    KEYWORDS.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ")
                ),
            ));
        }
    }
    Ok(kept)
}

/// `keyword = value` pairs; a value may stand in single quotes, and a backslash takes the next character as it is.
fn parse_keywords(text: &str) -> Result<Settings, Failure> {
    let malformed = |what: &str| {
        Failure::usage(
            format!("the connection string is malformed: {what}"),
            "Write host=… port=… dbname=… user=…, or postgresql://user@host:port/dbname.".to_owned(),
        )
    };
    let mut settings = Settings::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return Ok(settings);
        }
        let mut keyword = String::new();
        while let Some(c) = characters.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if characters.next() != Some('=') {
            return Err(malformed(&format!("\"=\" is missing after \"{keyword}\"")));
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = characters.next_if_eq(&'\'').is_some();
        loop {
            match characters.next() {
                Some('\\') => value.extend(characters.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(malformed("a quote is not closed")),
                None => break,
            }
        }
        settings.insert(keyword, value);
    }
}

/// What follows `postgresql://`: `user:password@host:port,host:port/dbname?keyword=value&…`.
fn parse_uri(rest: &str) -> Result<Settings, Failure> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (account, hosts) = match authority.rsplit_once('@') {
        Some((account, hosts)) => (account, hosts),
        None => ("", authority),
    };
    let mut settings = Settings::new();
    let mut put = |keyword: &str, value: &str| -> Result<(), Failure> {
        if !value.is_empty() {
            settings.insert(keyword.to_owned(), decoded(value)?);
        }
        Ok(())
    };
    let (user, password) = account.split_once(':').unwrap_or((account, ""));
    put("user", user)?;
    put("password", password)?;
    put("dbname", database)?;
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        // An IPv6 address stands in brackets, because of its colons.
        let (name, port) = match host.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
            Some((name, after)) => (name, after.strip_prefix(':').unwrap_or("")),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(name);
        ports.push(port);
    }
    put("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair.split_once('=').unwrap_or((pair, ""));
        // JDBC's habit, which libpq takes too.
        if (keyword, value) == ("ssl", "true") {
            put("sslmode", "require")?;
        } else {
            put(&decoded(keyword)?, value)?;
        }
    }
    Ok(settings)
}

fn decoded(text: &str) -> Result<String, Failure> {
    let malformed = || {
        Failure::usage(
            format!("\"{text}\" in the connection URI is malformed"),
            "A % is followed by two hexadecimal digits; write %25 for the sign itself.".to_owned(),
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().ok_or_else(malformed)?, rest.next().ok_or_else(malformed)?];
            let digits = std::str::from_utf8(&digits).map_err(|_| malformed())?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

fn find_service(name: &str, outside: &dyn Surroundings) -> Result<Settings, Failure> {
    let mut places = Vec::new();
    match outside.variable("PGSERVICEFILE") {
        Some(path) => places.push(path),
        None => places.extend(outside.variable("HOME").map(|home| format!("{home}/.pg_service.conf"))),
    }
    match outside.variable("PGSYSCONFDIR") {
        Some(folder) => places.push(format!("{folder}/pg_service.conf")),
        // Where Debian's libpq looks, and one built from source.
        None => places
            .extend(["/etc/postgresql-common/pg_service.conf".to_owned(), "/etc/pg_service.conf".to_owned()]),
    }
    for place in &places {
        if let Some(settings) = outside.file(place).and_then(|text| service_in(&text, name)) {
            return Ok(settings);
        }
    }
    Err(Failure::usage(
        format!("there is no service \"{name}\""),
        format!("Looked in {}.", places.join(", ")),
    ))
}

/// The section `[name]` of a service file.
fn service_in(text: &str, name: &str) -> Option<Settings> {
    let mut found: Option<Settings> = None;
    let mut inside = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            inside = section == name;
            if inside {
                found = Some(Settings::new());
            }
        } else if inside
            && let Some((keyword, value)) = line.split_once('=')
            && let Some(settings) = &mut found
        {
            settings.insert(keyword.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

/// The password for a connection in a password file's text: the first line whose four fields match.
pub(crate) fn password_in(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields_of(line);
        let [host, port, database, user, password] = <[String; 5]>::try_from(fields).ok()?;
        let matches =
            [host, port, database, user].iter().zip(wanted).all(|(have, want)| have == "*" || have == want);
        matches.then_some(password)
    })
}

/// The fields of a line: parted by colons; a backslash takes the next character as it is.
fn fields_of(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => fields.last_mut().unwrap_or(&mut String::new()).extend(characters.next()),
            // The password is the rest of the line, apart from escapes.
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct World {
        variables: HashMap<&'static str, &'static str>,
        files: HashMap<&'static str, &'static str>,
    }

    impl Surroundings for World {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|&value| value.to_owned())
        }
        fn file(&self, path: &str) -> Option<String> {
            self.files.get(path).map(|&text| text.to_owned())
        }
    }

    fn of(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(parse("app").unwrap(), of(&[("dbname", "app")]));
        assert_eq!(
            parse(r"host=/tmp user = 'o''k' dbname='it\'s' password=a\ b").unwrap_err().code(),
            crate::failure::USAGE,
            "a quote inside a quoted value needs a backslash"
        );
        assert_eq!(
            parse(r"host=/tmp dbname='it\'s' password=a\ b").unwrap(),
            of(&[("host", "/tmp"), ("dbname", "it's"), ("password", "a b")])
        );
        assert_eq!(
            parse("postgresql://me:p%40ss@[::1]:5433,other/db%20x?sslmode=verify-full&ssl=true").unwrap(),
            of(&[
                ("user", "me"),
                ("password", "p@ss"),
                ("host", "::1,other"),
                ("port", "5433,"),
                ("dbname", "db x"),
                ("sslmode", "require")
            ])
        );
        assert_eq!(
            parse("postgresql:///db?host=/run/pg&port=1").unwrap(),
            of(&[("host", "/run/pg"), ("port", "1"), ("dbname", "db")])
        );
        assert_eq!(parse("postgresql://h/db?colour=red").unwrap_err().code(), crate::failure::USAGE);
        assert_eq!(parse("postgresql://h/d%zz").unwrap_err().code(), crate::failure::USAGE);
    }

    #[test]
    fn what_is_given_holds_over_the_service_and_that_over_the_environment() {
        let mut world = World::default();
        world.variables.extend([("HOME", "/h"), ("PGHOST", "env"), ("PGUSER", "env"), ("PGPORT", "1")]);
        world.files.insert(
            "/h/.pg_service.conf",
            "# mine\n[other]\nhost=no\n[prod]\nhost=svc\nuser = svc\n[x]\nport=9\n",
        );
        let found = complete(of(&[("service", "prod"), ("user", "given")]), &world).unwrap();
        assert_eq!(found, of(&[("service", "prod"), ("user", "given"), ("host", "svc"), ("port", "1")]));
        let absent = complete(of(&[("service", "absent")]), &world).unwrap_err();
        assert_eq!(absent.code(), crate::failure::USAGE);
    }

    #[test]
    fn the_first_matching_line_of_a_password_file_counts() {
        let text = "# h:*:*:*:no\nh\\:1:*:db:me:a:b\\\\c\n*:5432:*:me:second\nbroken\n";
        assert_eq!(password_in(text, ["h:1", "7", "db", "me"]).as_deref(), Some("a:b\\c"));
        assert_eq!(password_in(text, ["x", "5432", "y", "me"]).as_deref(), Some("second"));
        assert_eq!(password_in(text, ["x", "5432", "y", "you"]), None);
    }
}
