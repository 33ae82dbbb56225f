//! A validator for the part of JSON Schema that the document uses. A keyword it does not know fails the
//! test, so that nothing passes for want of looking.

use serde_json::Value;

/// Why `value` does not match `schema`, or nothing. `#/components/...` references are looked up in `root`.
pub fn mismatch(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(rules) = schema.as_object() else {
        return if schema == &Value::Bool(true) { Ok(()) } else { Err(format!("schema {schema}")) };
    };
    for (keyword, rule) in rules {
        one_rule(root, rules, keyword, rule, value).map_err(|e| format!("{e} (by {keyword})"))?;
    }
    Ok(())
}

fn one_rule(
    root: &Value,
    rules: &serde_json::Map<String, Value>,
    keyword: &str,
    rule: &Value,
    value: &Value,
) -> Result<(), String> {
    match keyword {
        "description" | "title" | "format" | "example" | "default" => Ok(()),
        "$ref" => {
            let pointer = rule.as_str().and_then(|r| r.strip_prefix('#')).ok_or("a foreign reference")?;
            let target = root.pointer(pointer).ok_or(format!("dangling reference {pointer}"))?;
            mismatch(root, target, value)
        }
        "type" => {
            let types: Vec<&str> = match rule {
                Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
                one => one.as_str().into_iter().collect(),
            };
            let fits = types.iter().any(|t| has_type(value, t));
            fits.then_some(()).ok_or(format!("{value} is no {types:?}"))
        }
        "properties" => rule.as_object().ok_or("properties")?.iter().try_for_each(|(name, schema)| {
            value.get(name).map_or(Ok(()), |v| mismatch(root, schema, v).map_err(|e| format!("{name}: {e}")))
        }),
        "required" => rule.as_array().ok_or("required")?.iter().try_for_each(|name| {
            let name = name.as_str().ok_or("required")?;
            value.get(name).map(|_| ()).ok_or(format!("{name} is missing"))
        }),
        "additionalProperties" if rule == &Value::Bool(false) => {
            let known = rules.get("properties").and_then(Value::as_object);
            let mut keys = value.as_object().into_iter().flat_map(|o| o.keys());
            keys.try_for_each(|key| match known.is_some_and(|k| k.contains_key(key)) {
                true => Ok(()),
                false => Err(format!("{key} is not in the document")),
            })
        }
        "items" => {
            let mut items = value.as_array().into_iter().flatten();
            items.try_for_each(|item| mismatch(root, rule, item))
        }
        "enum" => {
            let listed = rule.as_array().is_some_and(|all| all.contains(value));
            listed.then_some(()).ok_or(format!("{value} is not in {rule}"))
        }
        "oneOf" => {
            let all = rule.as_array().ok_or("oneOf")?;
            let matching = all.iter().filter(|schema| mismatch(root, schema, value).is_ok()).count();
            (matching == 1).then_some(()).ok_or(format!("{value} matches {matching} of {rule}"))
        }
        "minimum" => {
            let (least, v) = (rule.as_f64().ok_or("minimum")?, value.as_f64().unwrap_or(f64::INFINITY));
            (v >= least).then_some(()).ok_or(format!("{value} is below {least}"))
        }
        other => Err(format!("this validator does not know {other}")),
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[test]
fn the_validator_tells_right_from_wrong() {
    let root = serde_json::json!({"components": {"schemas": {"S": {"type": "string", "enum": ["a"]}}}});
    let schema = serde_json::json!({
        "type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"type": "integer", "minimum": 1}, "s": {"oneOf": [{"type": "null"},
            {"$ref": "#/components/schemas/S"}]}, "l": {"type": "array", "items": {"type": ["string", "null"]}}}
    });
    let check = |text: &str| mismatch(&root, &schema, &serde_json::from_str(text).unwrap());
    for right in [r#"{"n": 1}"#, r#"{"n": 2, "s": null}"#, r#"{"n": 2, "s": "a", "l": ["x", null]}"#] {
        check(right).unwrap();
    }
    for wrong in [
        r#"{}"#,
        r#"[]"#,
        r#"{"n": 0}"#,
        r#"{"n": "1"}"#,
        r#"{"n": 1, "s": "b"}"#,
        r#"{"n": 1, "l": [1]}"#,
        r#"{"n": 1, "x": 1}"#,
    ] {
        check(wrong).unwrap_err();
    }
    mismatch(&root, &serde_json::json!({"pattern": "x"}), &Value::Null).unwrap_err();
}
