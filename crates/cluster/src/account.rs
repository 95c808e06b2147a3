//! The account a server runs as. PostgreSQL refuses to run as root, so root's servers run as `nobody`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{ClusterError, Installation};

/// Debian's ids of `nobody` and `nogroup`, for a machine whose list of users lacks them.
const NOBODY: (u32, u32) = (65534, 65534);

/// What root can lend to a server's account that may not enter a folder on the way (a checkout below /root, say). The
/// weaker one first; a container often lacks it.
const LENDABLE: [&str; 2] = ["dac_read_search", "dac_override"];

/// How a server's programs are started.
#[derive(Clone, Debug)]
pub(crate) enum Account {
    /// As whoever runs this.
    Own,
    /// By root, as someone else.
    Other { uid: u32, gid: u32, lent: Option<&'static str> },
}

impl Account {
    /// The account for a new cluster, which has to reach all the paths given.
    pub(crate) fn for_new(reach: &[&Path]) -> Result<Self, ClusterError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let (uid, gid) = nobody();
        Self::other(uid, gid, reach)
    }

    /// The account that owns a data directory.
    pub(crate) fn of_owner(data: &Path, reach: &[&Path]) -> Result<Self, ClusterError> {
        let owner = fs::metadata(data).map_err(ClusterError::file("look at", data))?;
        let own = rustix::process::geteuid();
        if own.as_raw() == owner.uid() {
            Ok(Self::Own)
        } else if own.is_root() {
            Self::other(owner.uid(), owner.gid(), reach)
        } else {
            Err(ClusterError::NotOwner { data: data.to_owned(), uid: owner.uid() })
        }
    }

    fn other(uid: u32, gid: u32, reach: &[&Path]) -> Result<Self, ClusterError> {
        let mut obstacle = None;
        for lent in [None].into_iter().chain(LENDABLE.map(Some)) {
            let account = Self::Other { uid, gid, lent };
            match account.first_out_of_reach(reach)? {
                None => return Ok(account),
                // Without anything lent it is plain what stands in the way.
                Some(path) => obstacle = obstacle.or(Some(path)),
            }
        }
        Err(ClusterError::Unreachable { uid, path: obstacle.map_or_else(Default::default, Path::to_owned) })
    }

    fn first_out_of_reach<'a>(&self, reach: &[&'a Path]) -> Result<Option<&'a Path>, ClusterError> {
        for &path in reach {
            let mut test = self.run("test".as_ref());
            test.arg("-r").arg(path).arg("-a").arg("-x").arg(path).stderr(Stdio::null());
            let status = test
                .status()
                .map_err(|source| ClusterError::Program { program: "setpriv".into(), source })?;
            if !status.success() {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// A command for a program of an installation, run as this account.
    pub(crate) fn command(&self, installation: &Installation, program: &str) -> Command {
        let mut command = self.run(installation.program(program).as_ref());
        installation.set_environment(&mut command);
        command
    }

    /// A program started through `setpriv`, which replaces itself by it and so keeps the process id.
    pub(crate) fn run(&self, program: &OsStr) -> Command {
        let Self::Other { uid, gid, lent } = self else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        if let Some(capability) = lent {
            command
                .arg(format!("--inh-caps=-all,+{capability}"))
                .arg(format!("--ambient-caps=-all,+{capability}"))
                // Else access(2), by which PostgreSQL looks for its own files, disregards what was lent.
                .arg("--securebits=+no_setuid_fixup");
        }
        command.arg("--").arg(program);
        command
    }

    /// Gives a file or folder to this account.
    pub(crate) fn give(&self, path: &Path) -> Result<(), ClusterError> {
        match *self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => {
                chown(path, Some(uid), Some(gid)).map_err(ClusterError::file("change the owner of", path))
            }
        }
    }
}

/// The ids of `nobody` in the machine's list of users.
fn nobody() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ids_of("nobody", &users).unwrap_or(NOBODY)
}

fn ids_of(name: &str, users: &str) -> Option<(u32, u32)> {
    let mut fields =
        users.lines().map(|line| line.split(':')).find_map(|mut f| (f.next()? == name).then_some(f))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::ids_of;

    #[test]
    fn ids_are_the_third_and_fourth_field() {
        let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:99:98:nobody:/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(ids_of("nobody", users), Some((99, 98)));
        assert_eq!(ids_of("nobod", users), None);
        assert_eq!(ids_of("nobody", ""), None);
    }
}
