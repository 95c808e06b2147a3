//! `man`: the manual pages, made from the same definitions as --help.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::failure::Failure;
use crate::output;

/// Print the manual page, or write one for each subcommand into a folder.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder for ruvectorctl.1, ruvectorctl-status.1, ruvectorctl-collection-register.1 and so on.
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
    // Those of nested verbs too, each with the options of the connection.
    clap_mangen::generate_to(command, folder)
        .map_err(|error| Failure::local(format!("{} cannot be written", folder.display()), error))
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut roff = Vec::new();
    Man::new(command).render(&mut roff).map_err(|error| Failure::local("the page cannot be made", error))?;
    Ok(roff)
}
