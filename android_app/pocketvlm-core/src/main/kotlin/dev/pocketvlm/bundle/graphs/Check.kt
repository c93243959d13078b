package dev.pocketvlm.bundle.graphs

import java.nio.ByteBuffer
import kotlin.math.abs

private const val OTHER_VERSION = "it is of another version of ONNX"
private const val OTHER_OUTPUTS = "it gives other outputs"
private const val OTHER_BRANCH = "a branch gives other outputs"
private const val SHOWN_OPERATOR = 40
private val BRANCHES = listOf("then_branch", "else_branch")

/**
 * Holds a graph to the grammar, without an engine: what exports write and nothing else. As Python's pocketvlm.bundle.graphs
 * does and the native runner's graph.cpp, in the same words. Takes memory by the number of fields alone, of which there is
 * a most.
 *
 * [graph]: from its position to its limit. [sizes]: what an input's dimension that varies is at most, by its name. [data]:
 * the files that the graph may take weights from, as it is to spell them, and their sizes in bytes.
 *
 * @throws GraphRefused it is another
 */
internal fun checkGraph(graph: ByteBuffer, sizes: Map<String, Long>, data: Map<String, Long>) {
    val model = Wire(graph).model()
    val opsets = model.messages("opsets").associate { it.text("domain") to it.number("version") }
    val inner = model.message("graph")
    val fits = opsets.size == model.count("opsets") && opsets.keys == GRAMMAR.opsets.keys &&
        opsets.all { (domain, version) -> version in GRAMMAR.opsets.getValue(domain) }
    if (model.number("ir_version") !in GRAMMAR.irVersions || inner == null || !fits) refuse(OTHER_VERSION)
    Checker(sizes, data).run(inner)
}

/** These nodes, and those in their branches. */
private fun nodesOf(nodes: Sequence<Message>): Sequence<Message> = nodes.flatMap { node ->
    sequenceOf(node) + node.messages("attributes").mapNotNull { it.message("g") }.flatMap { nodesOf(it.messages("nodes")) }
}

private class Checker(private val sizes: Map<String, Long>, private val data: Map<String, Long>) {
    private val values = HashMap<Name, TypedValue>()

    /** Names of [values] that the branch which is looked at has made; null outside of one. */
    private var made: HashSet<Name>? = null
    private var stored = 0L
    private var folded = 0L
    private var live = 0L
    private var work = 0L
    private var mostWork = 0L

    fun run(graph: Message) {
        if (nodesOf(graph.messages("nodes")).count() > limit("nodes")) refuse("it has more than ${limit("nodes")} nodes")
        weightsAndInputs(graph)
        val dying = lastUses(graph)
        for ((at, node) in graph.messages("nodes").withIndex()) {
            try {
                node(node, isInside = false)
            } catch (error: GraphRefused) {
                val name = node.text("operator").take(SHOWN_OPERATOR).ifEmpty { "no operator" }
                refuse("node $at, $name: ${error.message}")
            }
            for (name in dying[at].orEmpty()) live -= values.getValue(name).bits
        }
        val mostFolded = plus(times(limit("folded_by_stored"), stored), limit("folded_bits"))
        if (folded > mostFolded) refuse("it computes too much from its weights")
        if (!graph.has("outputs")) refuse("it has no outputs")
        for (described in graph.messages("outputs") + graph.messages("values")) checkDeclared(described, values, sizes)
    }

    private fun weightsAndInputs(graph: Message) {
        val room = HashMap(data)
        val tensors = LinkedHashMap<Name, TypedValue>()
        for (tensor in graph.messages("initializers")) {
            val name = tensor.name("name") ?: NO_NAME
            if (name in tensors) refuse("it has two tensors of one name")
            tensors[name] = tensorValue(tensor, data, room)
        }
        stored = tensors.values.fold(0L) { sum, value -> plus(sum, value.bits) }
        val numbers = tensors.values.fold(0L) { sum, value -> plus(sum, elements(value.dims)) }
        var rows = 1L
        for (described in graph.messages("inputs")) {
            val value = inputValue(described, sizes)
            val name = checkNotNull(described.name("name"))
            val default = tensors.remove(name) ?: value
            if (default.type != value.type || default.dims != value.dims) refuse("an input differs from its own default")
            define(name, value)
            rows = maxOf(rows, elements(value.dims.dropLast(1)))
        }
        for ((name, value) in tensors) define(name, value)
        mostWork = plus(limit("work"), times(times(limit("work_by_weight"), rows), numbers))
    }

    /** Place of a node -> values that nobody reads behind it. Inputs and weights live on; so do outputs. */
    private fun lastUses(graph: Message): Map<Int, List<Name>> {
        val kept = graph.messages("outputs").mapTo(HashSet()) { it.name("name") }
        val last = HashMap<Name, Int>()
        for ((at, node) in graph.messages("nodes").withIndex()) {
            for (one in nodesOf(sequenceOf(node))) for (name in one.names("inputs") + one.names("outputs")) last[name] = at
        }
        val dying = last.keys.filter { !it.isEmpty && it !in values && it !in kept }
        return dying.groupBy { last.getValue(it) }
    }

    private fun node(node: Message, isInside: Boolean) {
        val operator = GRAMMAR.operators[node.text("operator")]
        if (operator == null || node.text("domain") != operator.domain) refuse("no export writes this operator")
        val inputs = node.names("inputs").map { name ->
            if (name.isEmpty) null else values[name] ?: refuse("it reads what is not there yet")
        }
        var why: GraphRefused? = null
        val outputs = operator.forms.firstNotNullOfOrNull { form ->
            try {
                inForm(node, form, inputs, isInside)
            } catch (error: GraphRefused) {
                why = why ?: error
                null
            }
        } ?: throw checkNotNull(why)
        for ((name, value) in node.names("outputs").zip(outputs)) {
            if (name.isEmpty) refuse(OTHER_OUTPUTS)
            define(name, value)
            if (value.isConstant) folded = plus(folded, value.bits)
        }
    }

    /** What a node gives, if it is written in this form. */
    private fun inForm(node: Message, form: Form, inputs: List<TypedValue?>, isInside: Boolean): List<TypedValue> {
        val bound = BoundNode(readAttributes(node, form), inputs)
        val matched = matchInputs(form, bound)
        if (node.count("outputs") != form.outputs.size) refuse(OTHER_OUTPUTS)
        val branches = BRANCHES.mapNotNull { bound.attributes[it]?.branch }
        val (dims, generic) =
            if (branches.isEmpty()) applyRule(form.rule, bound) to matched else branches(branches, form, isInside)
        val present = inputs.filterNotNull()
        val isConstant = present.isNotEmpty() && branches.isEmpty() && present.all { it.isConstant }
        val most = mostOf(node.text("operator"), bound)
        val outputs = form.outputs.mapIndexed { at, pattern ->
            val shape = pattern.dims?.let { resolve(it, bound) } ?: checkNotNull(dims)[at]
            TypedValue(typeOf(pattern, generic, bound), shape, isConstant, most = most)
        }
        outputs.forEach(::checkBounds)
        for (held in dims.orEmpty().drop(outputs.size)) checkBounds(TypedValue("float32", held))
        val each = form.times.fold(1L) { count, name -> times(count, bound.most(name)) }
        work = plus(work, times(elements(outputs[0].dims), maxOf(limit("work_by_number"), each)))
        if (work > mostWork) refuse("it computes too much")
        return outputs
    }

    /** Both give the same, of one type T, which stands behind: of dimensions that differ, the larger at most. */
    private fun branches(branches: List<Message>, form: Form, isInside: Boolean): Pair<List<Dims>, String> {
        if (isInside) refuse("it has branches in branches")
        var generic = ""
        val (one, other) = branches.map { branch ->
            if (branch.count("outputs") != form.outputs.size) refuse(OTHER_BRANCH)
            val inside = HashSet<Name>().also { made = it }
            for (node in branch.messages("nodes")) node(node, isInside = true)
            for (described in branch.messages("outputs")) {
                val name = described.name("name") ?: NO_NAME
                if (name in values && name !in inside) refuse(OTHER_BRANCH)
                checkDeclared(described, values, sizes)
            }
            val given = branch.messages("outputs").map { values.getValue(checkNotNull(it.name("name"))) }.toList()
            given.zip(form.outputs) { value, pattern ->
                if (pattern.type == "T" && generic.isEmpty()) generic = value.type
                if (value.type != if (pattern.type == "T") generic else pattern.type) refuse(OTHER_BRANCH)
            }
            given.map { it.dims }
        }
        made = null
        if (generic.isNotEmpty() && generic !in form.types) refuse(OTHER_BRANCH)
        return one.zip(other, ::joint) to generic
    }

    private fun joint(one: Dims, other: Dims): Dims {
        if (one.size != other.size) refuse("its branches differ")
        return one.zip(other) { left, right -> if (left == right) left else -maxOf(abs(left), abs(right)) }
    }

    private fun define(name: Name, value: TypedValue) {
        if (name.isEmpty || name in values) refuse("it has two values of one name")
        checkBounds(value)
        values[name] = value
        made?.add(name)
        live = plus(live, value.bits)
        if (live - stored > limit("live_bits")) refuse("it holds too much at once")
    }

    private fun checkBounds(value: TypedValue) {
        val isBad = value.dims.size > limit("rank") || value.dims.any { abs(it) > limit("size") }
        if (isBad || value.bits > limit("value_bits")) refuse("it asks for too much memory")
    }

    private companion object {
        val NO_NAME = Name(ByteBuffer.allocate(0), 0, 0)
    }
}
