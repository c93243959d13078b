package dev.pocketvlm.bundle.graphs

import dev.pocketvlm.bundle.JsonObject
import dev.pocketvlm.bundle.parseJson

/**
 * One input or output of an operator. Without [dims] a rule says, or any will do; [isSingle]: one number, as a scalar or a
 * vector.
 */
internal class TensorPattern(val type: String, val dims: List<String>?, val isOptional: Boolean, val isSingle: Boolean)

/**
 * An attribute: of a [kind] (int, string, positive, size, sizes, branch), and one of [numbers] or [texts] where they are
 * listed.
 */
internal class Wanted(val kind: String, val numbers: List<Long>, val texts: List<String>, val isNeeded: Boolean)

/** A way in which exports write an operator; [times]: names whose product is the multiplications for a number of the output. */
internal class Form(
    val attributes: Map<String, Wanted>,
    /** null where nothing may stand */
    val inputs: List<TensorPattern?>,
    val outputs: List<TensorPattern>,
    val types: List<String>,
    val rule: String,
    val times: List<String>,
)

internal class Operator(val domain: String, val forms: List<Form>)

/** The operators that exports write, as pocketvlm/bundle/graphs/grammar.json has them; table.py says how it is read. */
internal class Grammar(
    val limits: Map<String, Long>,
    val irVersions: List<Long>,
    val opsets: Map<String, List<Long>>,
    /** ONNX's number of a type -> its name */
    val types: Map<Long, String>,
    /** of an element, by the type's name */
    val bits: Map<String, Long>,
    val messages: Map<String, MessageKind>,
    val operators: Map<String, Operator>,
)

internal val GRAMMAR: Grammar by lazy { parsed() }

internal fun limit(name: String): Long = GRAMMAR.limits.getValue(name)

private fun parsed(): Grammar {
    val raw = parseJson(TABLE.toByteArray()) as JsonObject
    val types = entries(raw["types"]).mapValues { (_, type) -> longs(type) }
    return Grammar(
        entries(raw["limits"]).mapValues { (_, limit) -> limit as Long },
        longs(raw["ir_versions"]),
        entries(raw["opsets"]).mapValues { (_, versions) -> longs(versions) },
        types.entries.associate { (name, type) -> type[0] to name },
        types.mapValues { (_, type) -> type[1] },
        entries(raw["messages"]).mapValues { (name, fields) -> messageKind(name, entries(fields)) },
        entries(raw["operators"]).mapValues { (_, operator) ->
            val of = entries(operator)
            Operator(of["domain"] as String? ?: "", (of.getValue("forms") as List<*>).map { form(entries(it)) })
        },
    )
}

private fun entries(value: Any?): Map<String, Any?> = value as JsonObject

private fun longs(value: Any?): List<Long> = (value as List<*>).map { it as Long }

private fun texts(value: Any?): List<String> = (value as List<*>?).orEmpty().map { it as String }

private fun messageKind(name: String, fields: Map<String, Any?>): MessageKind {
    val kinds = fields.entries.withIndex().associate { (place, field) ->
        val (called, kind) = texts(field.value)
        field.key.toLong() to FieldKind(called, kind.removePrefix("*"), kind[0] == '*', place)
    }
    return MessageKind(name, kinds)
}

private fun form(of: Map<String, Any?>): Form = Form(
    entries(of["attributes"] ?: JsonObject(emptyList())).entries.associate { (name, raw) ->
        name.removePrefix("?") to wanted(raw, isNeeded = name[0] != '?')
    },
    texts(of["inputs"]).map { if (it == "-") null else pattern(it) },
    texts(of["outputs"]).map(::pattern),
    texts(of["types"]),
    of["rule"] as String? ?: "",
    texts(of["times"]),
)

private fun wanted(raw: Any?, isNeeded: Boolean): Wanted = when {
    raw is String -> Wanted(raw, emptyList(), emptyList(), isNeeded)
    (raw as List<*>)[0] is String -> Wanted("string", emptyList(), texts(raw), isNeeded)
    else -> Wanted("int", longs(raw), emptyList(), isNeeded)
}

private fun pattern(text: String): TensorPattern {
    val bare = text.removePrefix("?").removeSuffix(".").removeSuffix("]")
    val inside = bare.substringAfter('[', "")
    val dims = if ('[' in bare) inside.split(' ').filter(String::isNotEmpty) else null
    return TensorPattern(bare.substringBefore('['), dims, text[0] == '?', text.endsWith("."))
}
