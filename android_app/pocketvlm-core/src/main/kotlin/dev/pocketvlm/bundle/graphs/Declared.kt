package dev.pocketvlm.bundle.graphs

private const val OTHER_SHAPE = "an input has another shape"
private const val OTHERWISE = "it describes a value otherwise than it is"
private const val NOWHERE = "a tensor lies nowhere"
private const val MOST_DIGITS = 15
private const val SHOWN = 120
private const val EXTERNAL = 1L

/** The names that a branch's outputs may have for a dimension that varies. */
private val BRANCH_NAMES = setOf("sequence", "width")

/** The input of which each number is at most 1. */
private const val MASK = "attention_mask"

/** A weight; of the files [data] and their sizes, [room] is what no tensor has taken yet. Sizes in bytes. */
internal fun tensorValue(tensor: Message, data: Map<String, Long>, room: MutableMap<String, Long>): TypedValue {
    val type = GRAMMAR.types[tensor.number("dtype") ?: 0] ?: refuse("a tensor has another type")
    val dims = tensor.numbers("dims")
    if (dims.size > limit("rank") || dims.any { it !in 1..limit("size") }) refuse("a tensor has no such shape")
    val value = TypedValue(type, dims, isConstant = true)
    if (value.bits > limit("value_bits")) refuse("a tensor is too large")
    val size = (value.bits + 7) / 8
    if (tensor.has("location") || tensor.has("external")) {
        if (tensor.number("location") != EXTERNAL || tensor.has("raw")) refuse("a tensor lies at two places")
        take(tensor, size, data, room)
        return value
    }
    if (tensor.size("raw").toLong() != size) refuse("a tensor has another length than its shape")
    if (type != "int64" || dims.size > 1 || elements(dims) > limit("ints")) return value
    return TypedValue(type, dims, isConstant = true, ints = tensor.longs("raw"))
}

private fun take(tensor: Message, size: Long, data: Map<String, Long>, room: MutableMap<String, Long>) {
    if (tensor.count("external") != 3) refuse(NOWHERE)
    val said = tensor.messages("external").associate { it.text("key") to it.text("value") }
    if (said.keys != setOf("location", "offset", "length")) refuse(NOWHERE)
    val name = said.getValue("location")
    val left = room[name]
        ?: refuse("it takes weights from '${name.take(SHOWN)}', which the manifest does not list for it")
    val (offset, length) = listOf("offset", "length").map { key ->
        val digits = said.getValue(key)
        if (digits.isEmpty() || digits.length > MOST_DIGITS || digits.any { it !in '0'..'9' }) refuse(NOWHERE)
        digits.toLong()
    }
    val fits = offset % limit("alignment") == 0L && length == size && offset + length <= data.getValue(name)
    if (!fits) refuse(NOWHERE)
    room[name] = left - length
    if (left < length) refuse("its tensors take more than there is")
}

/** An input; [sizes] says what its dimensions that vary are at most. */
internal fun inputValue(described: Message, sizes: Map<String, Long>): TypedValue {
    val (type, shape) = typed(described)
    val dims = (shape ?: refuse("an input has no shape")).map { dim ->
        val size = dim.number("size")
        if (dim.has("name")) {
            val most = sizes[dim.text("name")]
            if (size != null || most == null) refuse(OTHER_SHAPE)
            -most
        } else {
            if (size == null || size !in 1..limit("size")) refuse(OTHER_SHAPE)
            size
        }
    }.toList()
    if (dims.size > limit("rank")) refuse(OTHER_SHAPE)
    return TypedValue(type, dims, most = if (described.text("name") == MASK) 1L else null)
}

/** What is said of an output, or of a value on the way, is so. */
internal fun checkDeclared(described: Message, values: Map<Name, TypedValue>, sizes: Map<String, Long>) {
    val (type, shape) = typed(described)
    val value = values[described.name("name")]
    if (value == null || value.type != type) refuse(OTHERWISE)
    val said = (shape ?: return).toList()
    val fits = said.size == value.dims.size && said.zip(value.dims).all { (dim, size) ->
        val number = dim.number("size")
        if (dim.has("name")) {
            number == null && dim.text("name").let { it in sizes || it in BRANCH_NAMES }
        } else if (size > 0) {
            number == size
        } else {
            number != null && number in 1..-size
        }
    }
    if (!fits) refuse(OTHERWISE)
}

/** The type, and the dimensions where they are given. */
private fun typed(described: Message): Pair<String, Sequence<Message>?> {
    val tensor = described.message("type")?.message("tensor")
    val type = GRAMMAR.types[tensor?.number("dtype") ?: 0]
    if (type == null || described.text("name").isEmpty()) refuse(OTHERWISE)
    return type to tensor?.message("shape")?.messages("dims")
}
