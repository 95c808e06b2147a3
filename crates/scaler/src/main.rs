//! `ruvector-scaler`: scales read replicas in Kubernetes, on behalf of a PostgreSQL server.
//!
//! The extension's worker starts it without a shell and reads one JSON object from its standard output. It runs for one
//! request, in a process of its own, so that HTTP, TLS and whatever threads they need stay out of the server's processes.
//!
//! ```text
//! ruvector-scaler get TARGET                      {"replicas": 2, "ready": 2}
//! ruvector-scaler set TARGET REPLICAS EXPECTED    {"replicas": 3}     only if there are EXPECTED now
//! ruvector-scaler wait TARGET REPLICAS SECONDS    {"ready": 3}        as many as were ready in time
//! ```
//!
//! TARGET is `deployment/NAME` or `statefulset/NAME`, with `NAMESPACE/` before it where it is another than the one that the
//! service account or the kubeconfig names. What goes wrong is `{"error": …, "message": …}` and exit status 1; the errors are
//! listed at [`failure::Kind`]. Credentials come from `KUBECONFIG`, `~/.kube/config` or the pod's service account.

mod failure;
mod kubernetes;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use failure::{Failure, Kind};
use serde_json::{Value, json};
use target::Target;

/// Most replicas that are taken for a number of replicas: what is above is a mistake.
const REPLICAS_MAX: i32 = 10_000;
/// Longest wait for readiness.
const WAIT_MAX_S: u64 = 3600;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let answer = run(&arguments);
    let (value, code) = match answer {
        Ok(value) => (value, ExitCode::SUCCESS),
        Err(failure) => {
            (json!({ "error": failure.kind.as_str(), "message": failure.message }), ExitCode::FAILURE)
        }
    };
    println!("{value}");
    code
}

fn run(arguments: &[String]) -> Result<Value, Failure> {
    let request = Request::parse(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Unreachable, format!("no runtime: {error}")))?;
    runtime.block_on(kubernetes::answer(&request))
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Get(Target),
    Set { target: Target, replicas: i32, expected: i32 },
    Wait { target: Target, replicas: i32, timeout: Duration },
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Request, Failure> {
        let usage = || {
            let message = "usage: get TARGET | set TARGET REPLICAS EXPECTED | wait TARGET REPLICAS SECONDS";
            Failure::new(Kind::InvalidRequest, message)
        };
        let count = |text: &String| {
            text.parse().ok().filter(|count| (0..=REPLICAS_MAX).contains(count)).ok_or_else(|| {
                Failure::new(
                    Kind::InvalidRequest,
                    format!("{text} is no number of replicas (0 to {REPLICAS_MAX})"),
                )
            })
        };
        match arguments {
            [verb, target] if verb == "get" => Ok(Request::Get(target.parse()?)),
            [verb, target, replicas, expected] if verb == "set" => Ok(Request::Set {
                target: target.parse()?,
                replicas: count(replicas)?,
                expected: count(expected)?,
            }),
            [verb, target, replicas, seconds] if verb == "wait" => {
                let seconds = seconds.parse().ok().filter(|seconds| (0..=WAIT_MAX_S).contains(seconds));
                Ok(Request::Wait {
                    target: target.parse()?,
                    replicas: count(replicas)?,
                    timeout: Duration::from_secs(seconds.ok_or_else(usage)?),
                })
            }
            _ => Err(usage()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, Failure> {
        Request::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn requests_are_read_or_refused() {
        let target: Target = "deployment/read".parse().unwrap();
        assert_eq!(parse("get deployment/read").unwrap(), Request::Get(target.clone()));
        assert_eq!(
            parse("set deployment/read 3 2").unwrap(),
            Request::Set { target: target.clone(), replicas: 3, expected: 2 }
        );
        assert_eq!(
            parse("wait deployment/read 3 300").unwrap(),
            Request::Wait { target, replicas: 3, timeout: Duration::from_secs(300) }
        );
        for wrong in [
            "",
            "get",
            "get a b",
            "set deployment/read 3",
            "set deployment/read -1 2",
            "set deployment/read 3 10001",
            "wait deployment/read 3 3601",
            "delete deployment/read",
        ] {
            assert_eq!(parse(wrong).unwrap_err().kind, Kind::InvalidRequest, "{wrong}");
        }
        assert_eq!(parse("get pod/read").unwrap_err().kind, Kind::InvalidTarget);
    }
}
