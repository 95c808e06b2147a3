//! What `deploy/` names exists: subcommands, variables, ports, paths, and each other's names.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{program, said};
use serde_json::Value;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// The documents of a manifest, each with apiVersion, kind and a name.
fn manifest(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(deploy("kubernetes").join(name)).unwrap();
    let documents: Vec<Value> = serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect();
    for document in &documents {
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            assert!(document.pointer(field).is_some_and(Value::is_string), "{name}: {field} in {document}");
        }
    }
    documents
}

fn kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    one
}

/// What `ruvectorctl serve --help` says of itself.
fn help_of_serve() -> String {
    let mut command = program();
    command.args(["serve", "--help"]);
    said(command).code(0).out
}

#[test]
fn the_manifest_of_monitoring_is_consistent_and_names_what_exists() {
    let documents = manifest("monitoring.yaml");
    let (secret, deployment, service) =
        (kind(&documents, "Secret"), kind(&documents, "Deployment"), kind(&documents, "Service"));
    let pod = &deployment["spec"]["template"];
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]);
    assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], secret["metadata"]["name"]);
    let variables: Vec<&String> = secret["stringData"].as_object().unwrap().keys().collect();
    assert!(variables.iter().all(|name| name.starts_with("PG")), "{variables:?}");
    assert_eq!(
        container["image"],
        format!("ruvectorctl:{}", env!("CARGO_PKG_VERSION")),
        "the image is of this version"
    );
    let help = help_of_serve();
    assert_eq!(container["args"], serde_json::json!(["serve"]));
    let port = &container["ports"][0];
    assert!(
        help.contains(&format!(":{}]", port["containerPort"])),
        "serve listens on that port by default: {help}"
    );
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], port["containerPort"].to_string());
    assert_eq!(service["spec"]["ports"][0]["port"], port["containerPort"]);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], port["name"]);
    assert_eq!(container["livenessProbe"]["tcpSocket"]["port"], port["name"]);
    let path = container["readinessProbe"]["httpGet"]["path"].as_str().unwrap();
    let served =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/serve/mod.rs")).unwrap();
    assert!(served.contains(&format!(".route(\"{path}\"")), "{path} is served");
}

#[test]
fn the_scaler_may_do_what_it_asks_for_and_nothing_else() {
    let documents = manifest("scaler.yaml");
    let (account, role, binding) =
        (kind(&documents, "ServiceAccount"), kind(&documents, "Role"), kind(&documents, "RoleBinding"));
    let subject = &binding["subjects"][0];
    assert_eq!(subject["name"], account["metadata"]["name"]);
    assert_eq!(subject["kind"], account["kind"]);
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let spaces: BTreeSet<&str> =
        documents.iter().filter_map(|document| document["metadata"]["namespace"].as_str()).collect();
    assert_eq!(spaces.len(), 1, "{spaces:?}");
    assert_eq!(subject["namespace"], account["metadata"]["namespace"]);
    // get, get_scale and replace_scale of one workload: see crates/scaler/src/kubernetes.rs.
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["apiGroups"], serde_json::json!(["apps"]));
        assert!(
            rule["resourceNames"].as_array().is_some_and(|names| names.len() == 1),
            "one workload: {rule}"
        );
        for resource in rule["resources"].as_array().unwrap() {
            for verb in rule["verbs"].as_array().unwrap() {
                granted.insert((resource.as_str().unwrap(), verb.as_str().unwrap()));
            }
        }
    }
    let wanted = [("deployments", "get"), ("deployments/scale", "get"), ("deployments/scale", "update")];
    assert_eq!(granted, BTreeSet::from(wanted));
}

#[test]
fn the_unit_starts_what_exists_with_variables_that_exist() {
    let text = fs::read_to_string(deploy("systemd/ruvectorctl.service")).unwrap();
    let help = help_of_serve();
    assert!(
        text.contains("ExecStart=/usr/local/bin/ruvectorctl serve\n"),
        "where install.sh puts it by default"
    );
    let mut named = 0;
    for (at, _) in text.match_indices("RUVECTORCTL_") {
        let name = text[at..].split('=').next().unwrap();
        assert!(help.contains(&format!("[env: {name}=")), "{name}: {help}");
        named += 1;
    }
    assert!(named >= 4, "{text}");
    // systemd's own judgement, where there is one; the program must exist for it.
    let unit = std::env::temp_dir().join(format!("ruvectorctl-unit-{}.service", std::process::id()));
    fs::write(&unit, text.replace("/usr/local/bin/ruvectorctl", env!("CARGO_BIN_EXE_ruvectorctl"))).unwrap();
    let mut verify = std::process::Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit);
    match verify.output() {
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !complaint.contains("ruvectorctl-unit"), "{complaint}");
        }
        Err(error) => eprintln!("not verified by systemd-analyze: {error}"),
    }
    fs::remove_file(&unit).unwrap();
}

#[test]
fn the_container_file_names_this_version_and_what_a_package_has() {
    let text = fs::read_to_string(deploy("container/Containerfile")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let control = fs::read_to_string(deploy("../extension/ruvector.control")).unwrap();
    assert!(control.contains(&format!("default_version = '{version}'")), "{control}");
    assert!(text.contains(&format!("ruvector-{version}-pg18-")), "{text}");
    let package = fs::read_to_string(deploy("../toolchain/package")).unwrap();
    for path in ["bin/ruvectorctl", "install.sh"] {
        assert!(text.contains(&format!("/opt/ruvector/*/{path}")), "{path}");
    }
    // What replicas are scaled with is in a package beside what its manifest is for.
    for program in ["ruvectorctl", "ruvector-scaler", "install.sh", "deploy/{systemd,kubernetes}"] {
        assert!(package.contains(program), "{program} is in a package");
    }
    assert!(help_of_serve().contains("[env: RUVECTORCTL_LISTEN="), "the variable that the image sets");
}
