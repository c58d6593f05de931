//! boto3, a client that is not ours, against the simulator and against DynamoDB Local: one script, which must find the same.

use std::process::Command;

use serde_json::json;

use crate::support::dynamodb::{Service, local, python, simulator};

fn runs_against(service: &Service) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dynamodb/exercise.py");
    let done = Command::new(python()).arg(script).arg(service.url()).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{error}");
    assert!(out.contains("all found as expected"), "{out}\n{error}");
}

#[test]
fn boto3_finds_in_the_simulator_what_it_expects() {
    runs_against(&simulator(&json!({})));
}

#[test]
fn boto3_finds_the_same_in_dynamodb_local() {
    if let Some(service) = local() {
        runs_against(&service);
    }
}
