package dev.pocketvlm.sample

import android.Manifest
import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.ClipData
import android.content.Intent
import android.content.pm.PackageManager
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.provider.MediaStore
import android.provider.OpenableColumns
import android.view.Menu
import android.view.MenuItem
import android.view.View
import android.widget.Button
import android.widget.TextView
import android.widget.Toolbar
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.launch
import java.io.File

/** The app's only screen with its parts; it shows what the [ModelHolder] has and keeps nothing of its own. */
public class MainActivity : Activity() {
    private val holder: ModelHolder get() = (application as SampleApplication).holder
    private val scope = MainScope()
    private lateinit var dictation: Dictation
    private lateinit var setup: SetupScreen
    private lateinit var chat: ChatScreen
    private lateinit var statistics: StatisticsScreen
    private var overlay = Overlay.NONE

    private enum class Overlay { NONE, PICTURE, STATISTICS }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_main)
        keepClearOfBars(window, find(R.id.root))
        setActionBar(find<Toolbar>(R.id.toolbar))
        dictation = Dictation(this, { chat.question.setTextAt(it) }, { chat.showListening(it) }, { holder.problem.value = it })
        setup = SetupScreen(find(R.id.screen_setup), holder) { pickZip() }
        chat = ChatScreen(find(R.id.screen_chat), scope, ChatActions())
        statistics = StatisticsScreen(find(R.id.screen_statistics))
        holder.start()
        scope.launch { holder.stage.collectLatest { show(it) } }
        scope.launch { holder.problem.collect { show(it) } }
        val saved = savedInstanceState?.getString(OVERLAY)?.let(Overlay::valueOf) ?: Overlay.NONE
        if (holder.conversation != null && (saved != Overlay.PICTURE || holder.conversation?.opened != null)) open(saved)
        if (savedInstanceState == null) takeShared(intent)
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(OVERLAY, overlay.name)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        takeShared(intent)
    }

    override fun onStop() {
        super.onStop()
        dictation.stop()
        holder.conversation?.keep()
    }

    override fun onDestroy() {
        scope.cancel()
        super.onDestroy()
    }

    // --- What is shown ------------------------------------------------------------------------------------------------

    private suspend fun show(stage: Stage) {
        invalidateOptionsMenu()
        if (stage !is Stage.Chatting) {
            open(Overlay.NONE)
            return setup.show(stage)
        }
        open(overlay)
        chat.show(stage.conversation)
    }

    private fun show(problem: Problem?) {
        find<View>(R.id.notice).showIf(problem != null)
        find<TextView>(R.id.notice_text).text = problem?.text
        find<View>(R.id.notice_close).setOnClickListener { holder.problem.value = null }
        val label = when (problem?.remedy) {
            Remedy.NEW_CHAT -> R.string.new_chat
            Remedy.TRY_AGAIN -> R.string.try_again
            Remedy.OTHER_MODEL -> R.string.other_model
            Remedy.NONE, null -> 0
        }
        val button = find<Button>(R.id.notice_action)
        button.showIf(label != 0)
        if (label != 0) button.setText(label)
        button.setOnClickListener { if (problem != null) mend(problem.remedy) }
    }

    private fun mend(remedy: Remedy) {
        holder.problem.value = null
        when (remedy) {
            Remedy.NEW_CHAT -> holder.conversation?.startNew()
            Remedy.TRY_AGAIN -> holder.tryAgain()
            Remedy.OTHER_MODEL -> holder.choose()
            Remedy.NONE -> Unit
        }
    }

    private fun open(what: Overlay) {
        overlay = what
        val conversation = holder.conversation
        if (what == Overlay.STATISTICS && conversation != null) statistics.show(conversation)
        if (what == Overlay.PICTURE) showPicture()
        find<View>(R.id.screen_setup).showIf(conversation == null)
        find<View>(R.id.screen_chat).showIf(conversation != null && what == Overlay.NONE)
        find<View>(R.id.screen_picture).showIf(what == Overlay.PICTURE)
        find<View>(R.id.screen_statistics).showIf(what == Overlay.STATISTICS)
        val toolbar = find<Toolbar>(R.id.toolbar)
        toolbar.navigationIcon = if (what == Overlay.NONE) null else getDrawable(R.drawable.ic_back)
        toolbar.navigationContentDescription = if (what == Overlay.NONE) null else getString(R.string.back)
        toolbar.setNavigationOnClickListener { open(Overlay.NONE) }
        val name = conversation?.model?.info?.name ?: getString(R.string.app_name)
        title = if (what == Overlay.STATISTICS) getString(R.string.statistics) else name
        invalidateOptionsMenu()
    }

    private fun showPicture() {
        val picture = holder.conversation?.opened ?: return
        val tiles = picture.describeTiles(this)
        find<TilesView>(R.id.picture_tiles).apply {
            this.picture = picture
            contentDescription = getString(R.string.picture_with_tiles, tiles)
        }
        find<TextView>(R.id.picture_caption).text = tiles
    }

    /** Android 13's own way back does not ask this, unless the manifest says so. */
    @Deprecated("Android 13 has another way, which Android 8.1 lacks")
    @Suppress("DEPRECATION")
    override fun onBackPressed() {
        if (overlay == Overlay.NONE) super.onBackPressed() else open(Overlay.NONE)
    }

    override fun onCreateOptionsMenu(menu: Menu): Boolean {
        menuInflater.inflate(R.menu.main, menu)
        return true
    }

    override fun onPrepareOptionsMenu(menu: Menu): Boolean {
        val isShown = holder.conversation != null && overlay == Overlay.NONE
        for (index in 0 until menu.size()) menu.getItem(index).isVisible = isShown
        menu.findItem(R.id.read_aloud).isChecked = holder.readAloud.isOn
        return true
    }

    override fun onOptionsItemSelected(item: MenuItem): Boolean {
        when (item.itemId) {
            R.id.new_chat -> holder.conversation?.startNew()
            R.id.statistics -> open(Overlay.STATISTICS)
            R.id.read_aloud -> holder.readAloud.isOn = !holder.readAloud.isOn
            R.id.other_model -> holder.choose()
            else -> return super.onOptionsItemSelected(item)
        }
        return true
    }

    // --- What other apps do for this one ------------------------------------------------------------------------------

    private inner class ChatActions : ChatScreen.Actions {
        override fun choosePicture() = start(picker(), CHOOSE_PICTURE, R.string.problem_no_picker)

        override fun takePicture() {
            CameraPictures.file(this@MainActivity).delete()
            val intent = Intent(MediaStore.ACTION_IMAGE_CAPTURE).putExtra(MediaStore.EXTRA_OUTPUT, CameraPictures.ADDRESS)
            intent.clipData = ClipData.newRawUri(null, CameraPictures.ADDRESS)
            intent.addFlags(Intent.FLAG_GRANT_WRITE_URI_PERMISSION or Intent.FLAG_GRANT_READ_URI_PERMISSION)
            start(intent, TAKE_PICTURE, R.string.problem_no_camera)
        }

        override fun speak() {
            when {
                dictation.isListening -> dictation.stop()
                !dictation.isThere -> holder.problem.value = problem(R.string.problem_no_speech)
                checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED -> dictation.start()
                else -> requestPermissions(arrayOf(Manifest.permission.RECORD_AUDIO), MICROPHONE)
            }
        }

        override fun openPicture() = open(Overlay.PICTURE)

        override fun openStatistics() = open(Overlay.STATISTICS)
    }

    private fun picker(): Intent = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
        Intent(MediaStore.ACTION_PICK_IMAGES)
    } else {
        Intent(Intent.ACTION_GET_CONTENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")
    }

    private fun pickZip() {
        // Some file apps know no type for .zip.
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
        start(intent, PICK_ZIP, R.string.problem_no_picker)
    }

    private fun start(intent: Intent, request: Int, problem: Int) = try {
        startActivityForResult(intent, request)
    } catch (_: ActivityNotFoundException) {
        holder.problem.value = problem(problem)
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        if (resultCode != RESULT_OK) return
        val uri = if (requestCode == TAKE_PICTURE) CameraPictures.ADDRESS else data?.data ?: return
        if (requestCode == PICK_ZIP) holder.import(uri, nameOf(uri)) else holder.attach(uri)
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<String>, grantResults: IntArray) {
        if (requestCode != MICROPHONE || grantResults.isEmpty()) return // turned away while it asked
        if (grantResults[0] == PackageManager.PERMISSION_GRANTED) dictation.start()
        else holder.problem.value = problem(R.string.problem_microphone)
    }

    @Suppress("DEPRECATION") // the other one is Android 13's
    private fun takeShared(intent: Intent?) {
        if (intent?.action == Intent.ACTION_SEND) intent.getParcelableExtra<Uri>(Intent.EXTRA_STREAM)?.let(holder::attach)
    }

    private fun nameOf(uri: Uri): String =
        contentResolver.query(uri, arrayOf(OpenableColumns.DISPLAY_NAME), null, null, null)
            ?.use { if (it.moveToFirst()) it.getString(0) else null } ?: File(uri.path.orEmpty()).name

    private companion object {
        const val OVERLAY = "overlay"
        const val CHOOSE_PICTURE = 1
        const val TAKE_PICTURE = 2
        const val PICK_ZIP = 3
        const val MICROPHONE = 4
    }
}
