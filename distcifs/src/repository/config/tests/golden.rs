//! The JSON of tasks and tickets, byte for byte: it is stored, compared when a ticket is posted twice, and
//! read by programs of other versions.

use serde_json::json;

use super::good;

/// "every field, `needs` always a list": the order of the members too.
#[test]
fn a_task_in_build_json() {
    let config = good(&json!({"parameters": {"ref": "main"}, "tasks": [
        {"type": "execute-shell", "name": "unit", "params": {"script": "make\n", "nodelabels": ["linux"]},
            "labels": ["x86_64"], "nodelabels": ["arm"], "timeout": 600, "attempts": 2, "environment": {"B": "2", "A": "x y", "N": 1},
            "needs": [], "always": true, "allow_failure": true, "isolation": "lxc", "image": "job:base",
            "limits": {"cpus": 0.5, "memory": "2G", "processes": 100, "disk": "1G"}, "network": true, "console_limit": "1M"},
        {"type": "lint"},
    ]}));
    let texts: Vec<String> = config.tasks.iter().map(|task| task.resolved().to_string()).collect();
    assert_eq!(
        texts,
        [
            r#"{"index":0,"type":"execute-shell","name":"unit","params":{"script":"make\n","nodelabels":["linux"]},"labels":["linux","x86_64","arm"],"timeout":600,"attempts":2,"environment":{"B":"2","A":"x y","N":"1"},"needs":[],"always":true,"allow_failure":true,"isolation":"lxc","image":"job:base","limits":{"cpus":0.5,"memory":2147483648,"processes":100,"disk":1073741824},"network":true,"console_limit":1048576}"#,
            r#"{"index":1,"type":"lint","name":"lint","params":{},"labels":[],"timeout":null,"attempts":3,"environment":{},"needs":[0],"always":false,"allow_failure":false,"isolation":"none","image":null,"limits":{},"network":false,"console_limit":67108864}"#,
        ]
    );
}
