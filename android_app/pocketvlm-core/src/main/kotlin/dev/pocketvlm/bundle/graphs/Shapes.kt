package dev.pocketvlm.bundle.graphs

import kotlin.math.abs

private const val NO_FIT = "its shapes do not fit"
private const val NO_HEADS = "its heads do not fit"
private const val NO_AXIS = "its axis is none of the input's"
private const val NO_BLOCKS = "its blocks do not fit"
private const val NO_PADDING = "its padding does not fit"

/**
 * What a node gives of what it takes, where patterns do not say: pocketvlm/bundle/graphs/shapes.py, rule by rule. The
 * dimensions of the outputs and, behind them, of what is held meanwhile; null where the patterns say.
 */
internal fun applyRule(rule: String, bound: BoundNode): List<Dims>? = when (rule) {
    "" -> null
    "broadcast" -> broadcast(bound)
    "blocks" -> checked { blocks(bound) }
    "rows_of_blocks" -> checked { rowsOfBlocks(bound) }
    "column_blocks" -> checked { if (bound["G"] * bound.attribute("block_size") != bound["K"]) refuse(NO_BLOCKS) }
    "patches" -> patches(bound)
    "convolved" -> convolved(bound)
    "heads" -> heads(bound)
    "scores" -> scores(bound)
    "grouped" -> checked { grouped(bound) }
    "matrices" -> checked { matrices(bound) }
    "rotary" -> checked { if (bound["W"] < 1 || bound["W"] % (2 * bound["C"]) != 0L) refuse(NO_HEADS) }
    "element" -> checked { if (ints(bound, 1)[0] !in 0 until bound["V"]) refuse("its index is none of the input's") }
    "reduced" -> reduced(bound)
    "shape_of" -> shapeOf(bound)
    "sliced" -> sliced(bound)
    "halves" -> halves(bound)
    "joined" -> joined(bound)
    "reshaped" -> reshaped(bound)
    "transposed" -> transposed(bound)
    "last_axis" -> checked { if (ints(bound, 1) != listOf(1L)) refuse(NO_AXIS) }
    "padded" -> padded(bound)
    "counted" -> counted(bound)
    else -> error("the grammar has a rule that is not here: $rule")
}

private inline fun checked(check: () -> Unit): List<Dims>? {
    check()
    return null
}

private fun ints(bound: BoundNode, at: Int): Dims = bound.given(at).ints ?: refuse("an input is to be a constant")

private fun axisOf(axis: Long, rank: Int): Int {
    if (axis < -rank || axis >= rank) refuse(NO_AXIS)
    return (if (axis < 0) axis + rank else axis).toInt()
}

/** As ONNX does, where one side has the result's shape already: nothing grows. */
private fun broadcast(bound: BoundNode): List<Dims> {
    val left = bound.given(0).dims
    val right = bound.given(1).dims
    val rank = maxOf(left.size, right.size)
    val filled = { side: Dims -> List(rank - side.size) { 1L } + side }
    var leftGrows = false
    var rightGrows = false
    val result = filled(left).zip(filled(right)) { one, other ->
        leftGrows = leftGrows || (one == 1L && other != 1L)
        rightGrows = rightGrows || (other == 1L && one != 1L)
        if (one == 1L) other else if (other == 1L) one else same(one, other)
    }
    if (leftGrows && rightGrows) refuse("both of its inputs would grow")
    return listOf(result)
}

private fun checkZeroPoints(bound: BoundNode, groups: Long, bits: Long) {
    val given = bound.sizes["Z"] ?: return
    if (given != Math.floorDiv(groups * bits + 7, 8L)) refuse("its zero points do not fit")
}

/** [rows, groups, bytes of a group], scales for each group; zero points of 4 bits in pairs. */
private fun blocks(bound: BoundNode) {
    val bits = bound.attribute("bits")
    val block = bound.attribute("block_size")
    val groups = (bound.most("K") + block - 1) / block
    if (bound["G"] != groups || bound["B"] * 8 != bits * block) refuse(NO_BLOCKS)
    checkZeroPoints(bound, groups, bits)
}

/** Codes [rows, bytes] of whole groups, scales [rows, groups] -> columns. */
private fun rowsOfBlocks(bound: BoundNode) {
    val bits = bound.attribute("bits")
    val block = bound.attribute("block_size")
    val groups = bound["G"]
    val columns = Math.floorDiv(bound["P"] * 8, bits)
    if (columns <= (groups - 1) * block || columns > groups * block) refuse(NO_BLOCKS)
    checkZeroPoints(bound, groups, bits)
    bound.sizes["C"] = columns
}

/** A convolution whose kernel steps by its own size. */
private fun patches(bound: BoundNode): List<Dims> {
    val kernel = listOf(bound["P"], bound["Q"])
    for (name in listOf("kernel_shape", "strides")) {
        if (bound.attributes.getValue(name).sizes != kernel) refuse("it has other strides")
    }
    val down = bound.most("H") / kernel[0]
    val across = bound.most("W") / kernel[1]
    if (down == 0L || across == 0L || bound["H"] < 1 || bound["W"] < 1) refuse("its kernel is too large")
    return listOf(listOf(bound["T"], bound["O"], down, across))
}

/** A convolution with zeros around what it goes over, as many as half its kernel, whose side is odd. */
private fun convolved(bound: BoundNode): List<Dims> {
    val kernel = listOf(bound["P"], bound["Q"])
    val group = bound.attribute("group")
    val strides = bound.attributes.getValue("strides").sizes
    val pads = bound.attributes.getValue("pads").sizes
    val isOdd = kernel[0] % 2 == 1L
    if (bound.attributes.getValue("kernel_shape").sizes != kernel || !isOdd) refuse("its kernel is another")
    val steps = strides == listOf(1L, 1L) || strides == listOf(2L, 2L)
    if (kernel[0] != kernel[1] || pads != List(4) { kernel[0] / 2 } || !steps) refuse("it has other strides")
    if (bound["C"] != group * bound.most("I") || bound["O"] % group != 0L) refuse("its channels do not fit")
    if (bound["H"] < 1 || bound["W"] < 1) refuse("its kernel is too large")
    val step = strides[0]
    return listOf(listOf(bound["T"], bound["O"]) + listOf("H", "W").map { (bound[it] + step - 1) / step })
}

/** Beside the output the scores of all heads are held, of queries that may be others than the keys. */
private fun heads(bound: BoundNode): List<Dims> {
    val count = bound.attribute("num_heads")
    if (bound["W"] < 1 || bound["W"] % count != 0L) refuse(NO_HEADS)
    val queries = bound.most(if ("Q" in bound.sizes) "Q" else "S")
    return listOf(bound.given(0).dims, listOf(bound.most("B"), count, queries, bound.most("S")))
}

private fun scores(bound: BoundNode): List<Dims> {
    if (bound.most("H") % bound.most("K") != 0L) refuse(NO_HEADS)
    return listOf(bound.given(0).dims, listOf(bound.most("B"), bound.most("H"), bound.most("S"), bound.most("L")))
}

private fun grouped(bound: BoundNode) {
    val heads = bound.attribute("num_heads")
    val kvHeads = bound.attribute("kv_num_heads")
    val size = bound["D"]
    var isWrong = kvHeads != bound["H"] || heads % kvHeads != 0L || size < 1 || size % 8 != 0L
    isWrong = isWrong || bound["Q"] != heads * size || bound["W"] != kvHeads * size
    if (bound.attribute("do_rotary") == 1L) isWrong = isWrong || bound["C"] * 2 != size || bound["R"] < bound["L"]
    if (isWrong) refuse(NO_HEADS)
    val last = bound.given(5).most
    val total = bound.given(6).most
    val fits = last != null && total != null && last == total - 1 && last < bound["L"]
    if (!fits) refuse("it may reach beyond its cache")
}

/** Of each head one matrix, which a query, a key and a value belong to. */
private fun matrices(bound: BoundNode) {
    val heads = bound["H"]
    var isWrong = bound.attribute("q_num_heads") != heads || bound.attribute("kv_num_heads") != heads || heads < 1
    isWrong = isWrong || bound["Q"] != heads * bound["D"] || bound["W"] != heads * bound["E"]
    if (isWrong || bound["D"] < 1 || bound["E"] < 1) refuse(NO_HEADS)
}

private fun reduced(bound: BoundNode): List<Dims> {
    val dims = bound.given(0).dims.toMutableList()
    val axis = axisOf(ints(bound, 1)[0], dims.size)
    if (bound.attribute("keepdims") == 1L) dims[axis] = 1L else dims.removeAt(axis)
    return listOf(dims)
}

private fun shapeOf(bound: BoundNode): List<Dims> {
    val rank = bound.given(0).dims.size.toLong()
    val start = bound.attributes["start"]?.number ?: 0L
    val end = bound.attributes["end"]?.number ?: rank
    if (start >= end || end > rank) refuse(NO_AXIS)
    return listOf(listOf(end - start))
}

private fun sliced(bound: BoundNode): List<Dims> {
    val dims = bound.given(0).dims.toMutableList()
    val axis = axisOf(if (bound.inputs.size > 3) ints(bound, 3)[0] else 0L, dims.size)
    val start = bound.given(1).ints
    val end = bound.given(2).ints
    val size = dims[axis]
    if (start == null || end == null || size < 0) {
        dims[axis] = -abs(size)
    } else {
        val at = { index: Long -> (if (index < 0) index + size else index).coerceIn(0L, size) }
        dims[axis] = maxOf(0L, at(end[0]) - at(start[0]))
        if (dims[axis] == 0L) refuse("it leaves nothing")
    }
    return listOf(dims)
}

private fun halves(bound: BoundNode): List<Dims> {
    val rows = bound["R"]
    if (rows < 1 || rows % 2 != 0L) refuse(NO_FIT)
    val half = bound.lead.orEmpty() + listOf(rows / 2, bound["N"])
    return listOf(half, half)
}

private fun joined(bound: BoundNode): List<Dims> {
    val left = bound.given(0).dims
    val right = bound.given(1).dims
    val axis = axisOf(bound.attribute("axis"), left.size)
    if (left.size != right.size) refuse(NO_FIT)
    val dims = left.indices.map { at -> if (at == axis) left[at] else same(left[at], right[at]) }.toMutableList()
    val total = abs(left[axis]) + abs(right[axis])
    dims[axis] = if (left[axis] > 0 && right[axis] > 0) total else -total
    return listOf(dims)
}

private fun reshaped(bound: BoundNode): List<Dims> {
    val before = bound.given(0).dims
    val target = ints(bound, 1)
    val follows = target.count { it == -1L }
    if (follows > 1 || target.any { it < -1 }) refuse("its shape is none")
    val copied = target.indices.filter { target[it] == 0L }.toSet()
    if (copied.any { it >= before.size }) refuse("its shape is none")
    val rest = before.filterIndexed { at, _ -> at !in copied }
    val known = elements(target.filter { it > 0 })
    val have = elements(rest)
    val isExact = exact(rest)
    if (isExact && (if (follows == 1) have % known != 0L else have != known)) refuse(NO_FIT)
    val size = maxOf(1L, have / known)
    val dims = target.mapIndexed { at, one ->
        if (at in copied) before[at] else if (one > 0) one else if (isExact) size else -size
    }
    return listOf(dims)
}

private fun transposed(bound: BoundNode): List<Dims> {
    val dims = bound.given(0).dims
    val order = bound.attributes.getValue("perm").sizes
    if (order.sorted() != dims.indices.map { it.toLong() }) refuse("its order is none of the input's axes")
    return listOf(order.map { dims[it.toInt()] })
}

/** A grid's rows and columns, by less than they are. */
private fun padded(bound: BoundNode): List<Dims> {
    val dims = bound.given(0).dims
    val pads = ints(bound, 1)
    if (pads.size != 2 * dims.size) refuse(NO_PADDING)
    val behind = pads.drop(dims.size)
    val isWrong = pads.take(dims.size).any { it != 0L } || dims.zip(behind).any { (size, more) ->
        more != 0L && (more < 0 || more >= size)
    }
    if (isWrong) refuse(NO_PADDING)
    return listOf(dims.zip(behind) { size, more -> size + more })
}

private fun counted(bound: BoundNode): List<Dims> {
    val most = bound.given(1).most
    if (most == null || most < 1 || ints(bound, 0) != listOf(0L) || ints(bound, 2) != listOf(1L)) {
        refuse("nothing says how far it counts")
    }
    return listOf(listOf(-most))
}

/** The largest number that a node may give, where its kind says so: what counts tokens. */
internal fun mostOf(operator: String, bound: BoundNode): Long? {
    val first = bound.inputs.firstOrNull() ?: return null
    if (operator == "Shape") return first.dims.maxOf { abs(it) }
    val most = first.most ?: return null
    return when (operator) {
        "Gather", "Cast" -> most
        "ReduceSum" -> times(most, elements(first.dims)) // of a mask, whose ones are counted
        "Sub" -> { // of something that is not below zero; of as many as there can be, neither is the result
            val least = bound.given(1).ints?.minOrNull()
            if (least == null || least !in 0..most) null else most - least
        }
        else -> null
    }
}
