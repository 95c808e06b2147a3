//! `ruvectorctl`: the command line of ruvector. It presents what SQL offers and decides nothing.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

mod commands;
mod connection;
mod failure;
mod output;

use commands::{
    abort, approve, audit, collection, discover, doctor, execute, explain, feedback, history, lease, man,
    metrics, pause, plan, reject, release, replay, resume, rollback, serve, status, strategies, throttle,
    trigger, watch,
};
use connection::Place;
use failure::Failure;

/// Looks after pgvector collections: shows how they are, what is done about it, and lets you decide.
#[derive(Parser)]
#[command(name = "ruvectorctl", version, about, after_help = failure::CODES, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Write JSON; errors too, to standard error, but those of usage.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Discover(discover::Arguments),
    Doctor(doctor::Arguments),
    Status(status::Arguments),
    Watch(watch::Arguments),
    Explain(explain::Arguments),
    History(history::Arguments),
    Plan(plan::Arguments),
    Trigger(trigger::Arguments),
    Execute(execute::Arguments),
    Approve(approve::Arguments),
    Reject(reject::Arguments),
    Abort(abort::Arguments),
    Replay(replay::Arguments),
    Rollback(rollback::Arguments),
    Pause(pause::Arguments),
    Resume(resume::Arguments),
    Strategies(strategies::Arguments),
    Feedback(feedback::Arguments),
    Audit(audit::Arguments),
    Collection(collection::Arguments),
    Release(release::Arguments),
    Throttle(throttle::Arguments),
    Lease(lease::Arguments),
    Metrics(metrics::Arguments),
    Serve(serve::Arguments),
    /// Print shell completions: ruvectorctl completions bash > /etc/bash_completion.d/ruvectorctl
    Completions {
        /// For which shell.
        shell: Shell,
    },
    Man(man::Arguments),
    #[cfg(feature = "workshop")]
    #[command(flatten)]
    Workshop(commands::workshop::Command),
}

/// What every subcommand is given.
struct Call {
    place: Place,
    json: bool,
}

async fn run(call: &Call, command: Command) -> Result<(), Failure> {
    match command {
        Command::Discover(arguments) => discover::run(call, arguments).await,
        Command::Doctor(arguments) => doctor::run(call, arguments).await,
        Command::Status(arguments) => status::run(call, arguments).await,
        Command::Watch(arguments) => watch::run(call, arguments).await,
        Command::Explain(arguments) => explain::run(call, arguments).await,
        Command::History(arguments) => history::run(call, arguments).await,
        Command::Plan(arguments) => plan::run(call, arguments).await,
        Command::Reject(arguments) => reject::run(call, arguments).await,
        Command::Rollback(arguments) => rollback::run(call, arguments).await,
        Command::Pause(arguments) => pause::run(call, arguments).await,
        Command::Resume(arguments) => resume::run(call, arguments).await,
        Command::Strategies(arguments) => strategies::run(call, arguments).await,
        Command::Feedback(arguments) => feedback::run(call, arguments).await,
        Command::Audit(arguments) => audit::run(call, arguments).await,
        Command::Collection(arguments) => collection::run(call, arguments).await,
        Command::Throttle(arguments) => throttle::run(call, arguments).await,
        Command::Lease(arguments) => lease::run(call, arguments).await,
        Command::Release(arguments) => release::run(call, arguments).await,
        Command::Trigger(arguments) => trigger::run(call, arguments).await,
        Command::Execute(arguments) => execute::run(call, arguments).await,
        Command::Approve(arguments) => approve::run(call, arguments).await,
        Command::Abort(arguments) => abort::run(call, arguments).await,
        Command::Replay(arguments) => replay::run(call, arguments).await,
        Command::Metrics(arguments) => metrics::run(call, arguments).await,
        Command::Serve(arguments) => serve::run(call, arguments).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ruvectorctl", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        Command::Man(arguments) => man::run(Arguments::command(), &arguments),
        #[cfg(feature = "workshop")]
        Command::Workshop(command) => commands::workshop::run(command),
    }
}

fn main() -> ExitCode {
    let Arguments { place, json, command } = Arguments::parse();
    let call = Call { place, json };
    // demo and sandbox have their own threads and must not run inside an executor.
    #[cfg(feature = "workshop")]
    if let Command::Workshop(command) = command {
        return ended(&call, commands::workshop::run(command));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&call, command)),
        Err(error) => Err(Failure::local("the program cannot start", error)),
    };
    ended(&call, result)
}

fn ended(call: &Call, result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if call.json {
        eprintln!("{}", failure.json());
    } else {
        let text = failure.to_string();
        if !text.is_empty() {
            eprintln!("ruvectorctl: {text}");
        }
        if let Some(hint) = failure.hint() {
            eprintln!("hint: {hint}");
        }
    }
    ExitCode::from(failure.code())
}
