//! `man`: the manual pages, made from the same definitions as --help.

use std::path::{Path, PathBuf};

use clap_mangen::Man;

use crate::failure::Failure;
use crate::output;

/// Print the manual page, or write one for each subcommand into a folder.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder for ruvectorctl.1, ruvectorctl-status.1 and so on.
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(command: clap::Command, arguments: &Arguments) -> Result<(), Failure> {
    // Without help as a subcommand of its own, which would have a page too.
    let command = command.disable_help_subcommand(true);
    let Some(folder) = &arguments.dir else {
        output::line(&String::from_utf8_lossy(&page(command)?));
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::local(format!("{} cannot be made", folder.display()), error))?;
    write(folder, "ruvectorctl", command.clone())?;
    for subcommand in command.get_subcommands() {
        let name = format!("ruvectorctl-{}", subcommand.get_name());
        write(folder, &name, subcommand.clone().name(name.clone()))?;
    }
    Ok(())
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut roff = Vec::new();
    Man::new(command).render(&mut roff).map_err(|error| Failure::local("the page cannot be made", error))?;
    Ok(roff)
}

fn write(folder: &Path, name: &str, command: clap::Command) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?)
        .map_err(|error| Failure::local(format!("{} cannot be written", path.display()), error))
}
