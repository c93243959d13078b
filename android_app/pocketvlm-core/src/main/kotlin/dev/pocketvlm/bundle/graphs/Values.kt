package dev.pocketvlm.bundle.graphs

import kotlin.math.abs

/** Sizes: n for exactly n, -n for at most n (1 or more), where it hangs on what is asked. */
internal typealias Dims = List<Long>

/**
 * A value of a graph. [isConstant]: it follows from weights alone. [ints]: what a small int64 constant says. [most]: no
 * number in it is larger.
 */
internal class TypedValue(
    val type: String,
    val dims: Dims,
    val isConstant: Boolean = false,
    val ints: Dims? = null,
    val most: Long? = null,
) {
    val bits: Long get() = times(GRAMMAR.bits.getValue(type), elements(dims))
}

/** An attribute's value, by its kind. */
internal class Attribute(val number: Long, val sizes: List<Long>, val branch: Message?)

/** What a node's inputs and attributes say for the names in its patterns; [lead] is what `*` stands for. */
internal class BoundNode(val attributes: Map<String, Attribute>, val inputs: List<TypedValue?>) {
    val sizes = HashMap<String, Long>()
    var lead: Dims? = null

    /** As it is bound, below 0 where it is a bound itself. */
    operator fun get(name: String): Long = sizes.getValue(name)

    /** The most that a dimension may be. */
    fun most(name: String): Long = abs(get(name))

    fun attribute(name: String): Long = attributes.getValue(name).number

    /** An input that is there. */
    fun given(at: Int): TypedValue = checkNotNull(inputs[at])
}

/** Of what is not below 0; what is beyond 64 bits is the largest number of these. */
internal fun times(one: Long, other: Long): Long =
    if (one != 0L && other > Long.MAX_VALUE / one) Long.MAX_VALUE else one * other

/** Of what is not below 0, likewise. */
internal fun plus(one: Long, other: Long): Long = if (one > Long.MAX_VALUE - other) Long.MAX_VALUE else one + other

/** At most so many numbers. */
internal fun elements(dims: Dims): Long = dims.fold(1L) { count, size -> times(count, abs(size)) }

/** Whether nothing hangs on what is asked. */
internal fun exact(dims: Dims): Boolean = dims.all { it > 0 }

/** The dimension that two are that have to be equal: the exact one, or the tighter of two bounds. */
internal fun same(one: Long, other: Long): Long {
    val most = minOf(abs(one), abs(other))
    if (one > most || other > most) refuse("its shapes do not fit")
    return maxOf(one, other)
}

/** Binds the names of a pattern's dimensions to a value's. */
internal fun match(pattern: List<String>, value: TypedValue, bound: BoundNode) {
    var names = pattern
    var dims = value.dims
    if (names.firstOrNull() == "*") {
        names = names.drop(1)
        val count = dims.size - names.size
        if (count < 0) refuse("an input has too few dimensions")
        val lead = dims.take(count)
        dims = dims.drop(count)
        val before = bound.lead
        if (before != null && before.size != count) refuse("its shapes do not fit")
        bound.lead = before?.zip(lead) { other, one -> same(one, other) } ?: lead
    }
    if (dims.size != names.size) refuse("an input has other dimensions")
    for ((name, size) in names.zip(dims)) {
        val number = name.toLongOrNull()
        if (number != null) same(number, size) else bound.sizes[name] = bound.sizes[name]?.let { same(it, size) } ?: size
    }
}

/** The dimensions of an output. */
internal fun resolve(pattern: List<String>, bound: BoundNode): Dims = pattern.flatMap { name ->
    if (name == "*") bound.lead.orEmpty() else listOf(name.toLongOrNull() ?: bound[name])
}
