package dev.pocketvlm.bundle.graphs

private const val OTHER_ATTRIBUTE = "it has another attribute"
private const val OTHER_INPUTS = "it takes other inputs"
private const val OTHER_TYPE = "an input has another type"
private const val MOST_FLOAT = 1e6f

/** Of AttributeProto.type, by the table's kinds: the number, and the field that goes with it. */
private val KINDS = mapOf(
    "positive" to (1L to "f"), "int" to (2L to "i"), "size" to (2L to "i"), "string" to (3L to "s"),
    "branch" to (5L to "g"), "sizes" to (7L to "ints"),
)

/** A node's attributes by name, held to a form. */
internal fun readAttributes(node: Message, form: Form): Map<String, Attribute> {
    val found = HashMap<String, Attribute>()
    for (attribute in node.messages("attributes")) {
        val name = attribute.text("name")
        val wanted = form.attributes[name]
        if (wanted == null || name in found) refuse(OTHER_ATTRIBUTE)
        found[name] = valueOf(attribute, wanted)
    }
    if (form.attributes.any { (name, wanted) -> wanted.isNeeded && name !in found }) refuse("it lacks an attribute")
    return found
}

/** The value, if it is of the kind that the table names, and nothing else stands there. */
private fun valueOf(attribute: Message, wanted: Wanted): Attribute {
    val (number, key) = KINDS.getValue(wanted.kind)
    val there = attribute.there
    val isThere = key in there || wanted.kind == "sizes"
    if (attribute.number("type") != number || !isThere || (there - key) != setOf("name", "type")) refuse(OTHER_ATTRIBUTE)
    val value = Attribute(attribute.number("i") ?: 0, attribute.numbers("ints"), attribute.message("g"))
    val most = limit("size")
    val fits = when (wanted.kind) {
        "int" -> value.number in wanted.numbers
        "string" -> attribute.text("s") in wanted.texts
        "positive" -> attribute.float("f").let { it > 0 && it <= MOST_FLOAT }
        "size" -> value.number in 1..most
        "sizes" -> value.sizes.size in 1..limit("rank") && value.sizes.all { it in 0..most }
        else -> true
    }
    if (!fits) refuse("its ${attribute.text("name")} is out of the question")
    return value
}

/** Holds the inputs to their patterns; gives the type T. */
internal fun matchInputs(form: Form, bound: BoundNode): String {
    var generic = ""
    for ((name, wanted) in form.attributes) if (wanted.kind == "size") bound.sizes[name] = bound.attribute(name)
    if (bound.inputs.size > form.inputs.size) refuse(OTHER_INPUTS)
    for ((at, pattern) in form.inputs.withIndex()) {
        val value = bound.inputs.getOrNull(at)
        if (pattern == null || value == null) {
            if (value != null || (pattern != null && !pattern.isOptional)) refuse(OTHER_INPUTS)
            continue
        }
        if (pattern.type == "T") {
            if (generic.isEmpty()) generic = value.type
            if (value.type != generic || generic !in form.types) refuse(OTHER_TYPE)
        } else if (value.type != pattern.type) {
            refuse(OTHER_TYPE)
        }
        if (pattern.isSingle && value.dims.isNotEmpty() && value.dims != listOf(1L)) refuse("an input has other dimensions")
        if (pattern.dims != null) match(pattern.dims, value, bound)
    }
    return generic
}

/** Of an output. */
internal fun typeOf(pattern: TensorPattern, generic: String, bound: BoundNode): String = when {
    pattern.type.startsWith("@") -> GRAMMAR.types.getValue(bound.attribute(pattern.type.drop(1)))
    pattern.type == "T" -> generic
    else -> pattern.type
}
