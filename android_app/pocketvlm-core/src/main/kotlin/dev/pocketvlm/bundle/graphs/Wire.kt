package dev.pocketvlm.bundle.graphs

import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val WIRE_BYTES = 2
private val WIRE = mapOf("int" to 0, "float" to 5)

/** A branch has no branches. */
private const val MOST_DEPTH = 1
private const val LOW_BITS = 0x7fL

/** A graph is not one that a bundle may have; the message says why, in few printable characters. */
internal class GraphRefused(override val message: String) : Exception(message, null, false, false)

internal fun refuse(why: String): Nothing = throw GraphRefused(why)

/** A field of a kind of message; [place] among the fields of its kind. */
internal class FieldKind(val name: String, val kind: String, val isRepeated: Boolean, val place: Int)

/** Of onnx.proto, as far as exports write it. */
internal class MessageKind(val name: String, val fields: Map<Long, FieldKind>)

/** What stands in a graph: a [number] (of a float its bits), or the bytes from [start] to [end]. */
internal class Field(val kind: FieldKind, val number: Long, val start: Int, val end: Int)

/**
 * A graph's protobuf, read strictly: fields of onnx.proto that exports write, once where onnx.proto says once. Protobuf's
 * readers skip what they do not know and join what is there twice; readers that differ in that see two graphs. All of it is
 * looked at once, from beginning to end, and nothing is kept: a [Message] reads its own fields again where they lie.
 */
internal class Wire(bytes: ByteBuffer) {
    private val graph: ByteBuffer = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN)
    private var isLookedAt = false
    private var fields = 0L

    /**
     * The whole graph.
     *
     * @throws GraphRefused it is damaged, or has what no export writes
     */
    fun model(): Message {
        lookAt("Model", graph.position(), graph.limit(), 0)
        isLookedAt = true
        return Message(this, "Model", graph.position(), graph.limit())
    }

    private fun lookAt(kind: String, start: Int, end: Int, depth: Int) {
        each(kind, start, end) { field ->
            val inner = field.kind.kind
            if (inner in GRAMMAR.messages) {
                val inside = if (inner == "Branch") depth + 1 else depth
                if (inside > MOST_DEPTH) refuse("it has branches in branches")
                lookAt(inner, field.start, field.end, inside)
            }
        }
    }

    /** Calls [use] with each field of a message, in their order. */
    inline fun each(kind: String, start: Int, end: Int, use: (Field) -> Unit) {
        val known = GRAMMAR.messages.getValue(kind)
        val cursor = Cursor(start, end)
        var there = 0L
        while (cursor.at < end) {
            val field = next(known, cursor, there)
            there = there or (1L shl field.kind.place)
            use(field)
        }
    }

    private fun next(known: MessageKind, cursor: Cursor, there: Long): Field {
        val tag = varint(cursor)
        val number = tag ushr 3
        val kind = known.fields[number] ?: refuse("field $number of its ${known.name} is none that exports write")
        val isTwice = !kind.isRepeated && there ushr kind.place and 1L == 1L
        if ((tag and 7L).toInt() != (WIRE[kind.kind] ?: WIRE_BYTES) || isTwice) {
            refuse("${kind.name} of its ${known.name} is damaged or there twice")
        }
        if (!isLookedAt && ++fields > limit("fields")) refuse("it has more than ${limit("fields")} fields")
        return when (kind.kind) {
            "int" -> Field(kind, varint(cursor), 0, 0)
            "float" -> {
                if (cursor.end - cursor.at < Float.SIZE_BYTES) damaged(cursor)
                cursor.at += Float.SIZE_BYTES
                Field(kind, graph.getInt(cursor.at - Float.SIZE_BYTES).toLong(), 0, 0)
            }
            else -> piece(kind, cursor)
        }
    }

    private fun piece(kind: FieldKind, cursor: Cursor): Field {
        val size = varint(cursor)
        val start = cursor.at
        if (size < 0 || size > cursor.end - start) damaged(cursor)
        cursor.at += size.toInt()
        if (kind.kind == "text" && !isLookedAt) checkText(start, cursor.at)
        return Field(kind, 0, start, cursor.at)
    }

    /** Names: printable ASCII without spaces, which engines, files and terminals all take. */
    private fun checkText(start: Int, end: Int) {
        var fits = end - start <= limit("name")
        for (at in start until end) fits = fits && graph[at] in PRINTABLE
        if (!fits) refuse("it has a name that is none")
    }

    /** A number below 2^64 of up to ten bytes, unsigned. */
    private fun varint(cursor: Cursor): Long {
        var value = 0L
        for (shift in 0 until 70 step 7) {
            if (cursor.at >= cursor.end) break
            val byte = graph[cursor.at++].toLong()
            if (shift == 63 && byte > 1) break
            value = value or (byte and LOW_BITS shl shift)
            if (byte >= 0) return value
        }
        damaged(cursor)
    }

    private fun damaged(cursor: Cursor): Nothing = refuse("it is damaged at byte ${cursor.at - graph.position()}")

    fun name(field: Field): Name = Name(graph, field.start, field.end)

    /** Little-endian numbers of 64 bits. */
    fun longs(field: Field): List<Long> = (field.start until field.end step Long.SIZE_BYTES).map { graph.getLong(it) }

    class Cursor(var at: Int, val end: Int)

    private companion object {
        val PRINTABLE = '!'.code.toByte()..'~'.code.toByte()
    }
}

/** A name where it stands, so that many long ones take no memory. */
internal class Name(private val graph: ByteBuffer, private val start: Int, private val end: Int) : Comparable<Name> {
    private val hash = (start until end).fold(0) { hash, at -> 31 * hash + graph[at] }

    val isEmpty: Boolean get() = start == end

    override fun hashCode(): Int = hash

    override fun equals(other: Any?): Boolean = other is Name && hash == other.hash && compareTo(other) == 0

    /** An order, so that names that are made to have one hash are still found fast. */
    override fun compareTo(other: Name): Int {
        for (at in 0 until minOf(end - start, other.end - other.start)) {
            val difference = graph[start + at] - other.graph[other.start + at]
            if (difference != 0) return difference
        }
        return (end - start) - (other.end - other.start)
    }

    override fun toString(): String = String(CharArray(end - start) { graph[start + it].toInt().toChar() })
}

/** A message's fields by name; messages in it are read where they are asked for. */
internal class Message(private val wire: Wire, kind: String, start: Int, end: Int) {
    private val fields = ArrayList<Field>().also { found -> wire.each(kind, start, end) { found.add(it) } }

    /** Names of the fields that are there. */
    val there: Set<String> get() = fields.mapTo(HashSet()) { it.kind.name }

    private fun first(name: String): Field? = fields.firstOrNull { it.kind.name == name }

    private fun all(name: String): List<Field> = fields.filter { it.kind.name == name }

    private fun inside(field: Field) = Message(wire, field.kind.kind, field.start, field.end)

    fun has(name: String): Boolean = first(name) != null

    fun number(name: String): Long? = first(name)?.number

    fun float(name: String): Float = Float.fromBits(checkNotNull(first(name)).number.toInt())

    fun numbers(name: String): List<Long> = all(name).map { it.number }

    /** Empty where it is not there. */
    fun name(name: String): Name? = first(name)?.let(wire::name)

    fun text(name: String): String = name(name)?.toString().orEmpty()

    fun names(name: String): List<Name> = all(name).map(wire::name)

    fun message(name: String): Message? = first(name)?.let(::inside)

    fun count(name: String): Int = fields.count { it.kind.name == name }

    /** Read one by one. */
    fun messages(name: String): Sequence<Message> = all(name).asSequence().map(::inside)

    /** Bytes. */
    fun size(name: String): Int = first(name)?.let { it.end - it.start } ?: 0

    fun longs(name: String): List<Long> = first(name)?.let(wire::longs).orEmpty()
}
